//! Splits what a client sends into lines, with a limit on their length and on their time.

use super::protocol::LONGEST_LINE;
use std::time::{Duration, Instant};

/// A line of a client, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its newline.
    Whole(Vec<u8>),
    /// The line is longer than [`LONGEST_LINE`]; it is not known where the next one begins.
    TooLong,
    /// The line was not completed in time.
    TooSlow,
}

/// What was read from a client and is not yet handled.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// When the first byte of the incomplete line was read.
    began: Option<Instant>,
}

impl From<Vec<u8>> for Lines {
    /// Continues with what was read before an execve(2).
    fn from(buffer: Vec<u8>) -> Lines {
        let began = (!buffer.is_empty()).then(Instant::now);
        Lines { buffer, began }
    }
}

impl Lines {
    /// What was read and not yet taken.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.began.get_or_insert_with(Instant::now);
        self.buffer.extend_from_slice(bytes);
    }

    /// How much of `limit` the incomplete line has left. None if there is no such line: for the
    /// next one the thread may wait without limit.
    pub fn time_left(&self, limit: Duration) -> Option<Duration> {
        self.began.map(|began| limit.saturating_sub(began.elapsed()))
    }

    /// Takes the next line, or the reason why there will be none. None if more must be read. A
    /// line that has begun must be complete within `limit`.
    pub fn take_line(&mut self, limit: Duration) -> Option<Line> {
        if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let rest = self.buffer.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            line.pop();
            self.began = (!self.buffer.is_empty()).then(Instant::now);
            return Some(if line.len() > LONGEST_LINE { Line::TooLong } else { Line::Whole(line) });
        }
        if self.buffer.len() > LONGEST_LINE {
            return Some(Line::TooLong);
        }
        (self.time_left(limit) == Some(Duration::ZERO)).then_some(Line::TooSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.take_line(LIMIT) {
                let last = line == Line::TooLong;
                seen.push(line);
                if last {
                    return seen;
                }
            }
            // As after an execve(2).
            lines = Lines::from(lines.buffered().to_vec());
        }
        seen
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_is_not() {
        let mut text = vec![b'x'; LONGEST_LINE];
        text.push(b'\n');
        assert_eq!(all([text.as_slice()]), [Line::Whole(vec![b'x'; LONGEST_LINE])]);
        text.insert(0, b'x');
        assert_eq!(all([text.as_slice()]), [Line::TooLong]);
        let endless = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(all([endless.as_slice()]), [Line::TooLong]);
    }

    #[test]
    fn a_line_that_is_not_completed_in_time_is_too_slow() {
        let mut lines = Lines::default();
        assert_eq!((lines.time_left(Duration::ZERO), lines.take_line(Duration::ZERO)), (None, None));
        lines.push(b"{\"version\"");
        assert_eq!(lines.take_line(LIMIT), None);
        assert_eq!(lines.take_line(Duration::ZERO), Some(Line::TooSlow));
    }

    proptest! {
        /// Where the stream is cut into reads changes nothing.
        #[test]
        fn cuts_change_nothing(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).filter(|piece| !piece.is_empty());
            let got = all(pieces);
            let end = text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
            let wanted: Vec<Line> = match text.contains(&b'\n') {
                true => text[..end].split(|&byte| byte == b'\n').map(|line| Line::Whole(line.to_vec())).collect(),
                false => Vec::new(),
            };
            prop_assert_eq!(got, wanted);
        }
    }
}
