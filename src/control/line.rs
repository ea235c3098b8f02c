//! Lines of a client, of a length and a time that have an end.

use super::protocol::LONGEST_LINE;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its newline.
    Whole(Vec<u8>),
    /// One that is longer than [`LONGEST_LINE`]; where the next begins is not known.
    TooLong,
    /// The beginning of one, and no more for too long.
    TooSlow,
    /// The client has said all, or gone.
    End,
}

/// What has been read and not yet been asked for.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// When the first byte of the line at hand came.
    began: Option<Instant>,
}

/// Where bytes come from, with a limit to how long a read may take.
pub trait Source: Read {
    /// None: for ever.
    ///
    /// # Errors
    /// The kernel's.
    fn limit(&self, time: Option<Duration>) -> io::Result<()>;
}

impl Source for &UnixStream {
    fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(time)
    }
}

impl Lines {
    /// The next line. One that has begun may take `patience`; nothing at all may be
    /// waited for without end.
    pub fn next(&mut self, mut from: impl Source, patience: Duration) -> Line {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.began = (!self.buffer.is_empty()).then(Instant::now);
                return if line.len() > LONGEST_LINE { Line::TooLong } else { Line::Whole(line) };
            }
            if self.buffer.len() > LONGEST_LINE {
                return Line::TooLong;
            }
            let left = self.began.map(|began| patience.saturating_sub(began.elapsed()));
            if left == Some(Duration::ZERO) {
                return Line::TooSlow;
            }
            let mut bytes = [0; 4096];
            let read = from.limit(left).and_then(|()| from.read(&mut bytes));
            match read {
                Ok(0) => return Line::End,
                Ok(count) => {
                    self.began.get_or_insert_with(Instant::now);
                    self.buffer.extend_from_slice(&bytes[..count]);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    _ => return Line::End,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// Bytes that come in these pieces.
    struct Pieces<'a>(Vec<&'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.first_mut() else { return Ok(0) };
            let count = piece.read(buffer)?;
            if piece.is_empty() {
                self.0.remove(0);
            }
            Ok(count)
        }
    }

    impl Source for &mut Pieces<'_> {
        fn limit(&self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(mut pieces: Pieces<'_>) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        loop {
            let line = lines.next(&mut pieces, Duration::from_secs(60));
            let last = matches!(line, Line::End | Line::TooLong);
            seen.push(line);
            if last {
                return seen;
            }
        }
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_is_not() {
        let mut text = vec![b'x'; LONGEST_LINE];
        text.push(b'\n');
        assert_eq!(all(Pieces(vec![&text])), [Line::Whole(vec![b'x'; LONGEST_LINE]), Line::End]);
        text.insert(0, b'x');
        assert_eq!(all(Pieces(vec![&text])), [Line::TooLong]);
        let endless = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(all(Pieces(vec![&endless])), [Line::TooLong]);
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"version\"").unwrap();
        let mut lines = Lines::default();
        assert_eq!(lines.next(&ours, Duration::from_millis(20)), Line::TooSlow);
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
            let got = all(Pieces(pieces.collect()));
            let end = text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
            let mut wanted: Vec<Line> = match text.contains(&b'\n') {
                true => text[..end].split(|&byte| byte == b'\n').map(|line| Line::Whole(line.to_vec())).collect(),
                false => Vec::new(),
            };
            wanted.push(Line::End);
            prop_assert_eq!(got, wanted);
        }
    }
}
