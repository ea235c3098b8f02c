//! The last lines of a text that comes in pieces, at most twenty.

use crate::logger;
use std::collections::VecDeque;
use std::mem;

/// The number of lines that are kept.
const LINES: usize = 20;
/// The most bytes of a line that are kept.
const LONGEST: usize = 1024;

/// The last lines of a text that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) lines: VecDeque<Vec<u8>>,
    /// Whether the last line has not ended.
    pub(super) open: bool,
    /// How many lines there have been.
    pub(super) count: usize,
}

impl Ring {
    /// Takes the next piece.
    pub(super) fn push(&mut self, text: &[u8]) {
        for piece in text.split_inclusive(|&byte| byte == b'\n') {
            if !mem::replace(&mut self.open, true) {
                self.lines.push_back(Vec::new());
                self.count += 1;
                if self.lines.len() > LINES {
                    self.lines.pop_front();
                }
            }
            let (piece, ends) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            if let Some(line) = self.lines.back_mut() {
                let room = LONGEST - line.len();
                line.extend(&piece[..piece.len().min(room)]);
            }
            self.open = !ends;
        }
    }

    /// The lines that are kept, of those after the first `before`.
    pub(super) fn lines_after(&self, before: usize) -> Vec<String> {
        let gone = self.count.saturating_sub(self.lines.len());
        self.lines
            .iter()
            .skip(before.saturating_sub(gone))
            .map(|line| logger::escape(&String::from_utf8_lossy(line)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(pieces: &[&str]) -> Vec<String> {
        let mut ring = Ring::default();
        pieces.iter().for_each(|piece| ring.push(piece.as_bytes()));
        ring.lines_after(0)
    }

    #[test]
    fn the_last_lines_are_kept_wherever_they_are_cut() {
        assert_eq!(ring(&[]), [""; 0]);
        assert_eq!(ring(&["a", "b\n", "\nc\x1b"]), ["ab", "", "c\\u{1b}"]);
        let many: String = (0..50).map(|n| format!("{n}\n")).collect();
        let lines = ring(&[&many]);
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (LINES, "30", "49"));
        let long = "x".repeat(3 * LONGEST);
        assert_eq!(ring(&[&long, &long, "\ny"]), ["x".repeat(LONGEST), "y".into()]);
    }
}
