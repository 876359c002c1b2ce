//! How far a file is looked ahead in for lines that are read in one pass: whole lines, as text.
//!
//! Here: how much of a block is judged to be text at once, and when to look ahead no more. Not here: what a line means (`LineParser`).
//!
//! That bytes are UTF-8 is found out for many lines at once: by itself, a field of some twenty bytes would cost more than finding it.

/// How many lines in a row may not be plain before none is tried for a while: they are of a kind that the one pass does not know.
const MISSES_MAX: u32 = 64;
/// How many lines are not tried then.
const PASS_BY: u32 = 1 << 12;
/// Twice so many lines are looked at where the one before was not plain.
const LINES_MIN: usize = 2;

/// How many lines to look at, and how long they may be together.
#[derive(Clone, Copy, Debug)]
pub struct TextWindow {
    line_len_bytes: usize,
    /// How many plain lines came last.
    run: usize,
    misses: u32,
    pass_by: u32,
}

impl Default for TextWindow {
    fn default() -> Self {
        Self { line_len_bytes: 64, run: LINES_MIN, misses: 0, pass_by: 0 }
    }
}

impl TextWindow {
    /// Whether the next line is read without a look ahead; to be asked once for each, because so many are passed by.
    pub fn passes_by(&mut self) -> bool {
        let passes_by = self.pass_by > 0;
        self.pass_by -= u32::from(passes_by);
        passes_by
    }

    /// The text that `block` begins with, as far as it is some: about `lines_max` lines, the last one whole if its end is in the block.
    pub fn text<'a>(&self, block: &'a [u8], lines_max: usize) -> &'a str {
        let wanted = self.line_len_bytes * lines_max.min(2 * self.run);
        let end = block.get(wanted..).and_then(|rest| memchr::memchr(b'\n', rest));
        let block = &block[..end.map_or(block.len(), |end| wanted + end + 1)];
        match std::str::from_utf8(block) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&block[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Takes what a look gave: so many lines of so many bytes, and whether they were all that was wanted of the text. Whether to look at what follows.
    pub fn goes_on(&mut self, lines: usize, len_bytes: usize, was_all: bool) -> bool {
        if let Some(mean) = len_bytes.checked_div(lines) {
            (self.line_len_bytes, self.misses) = (mean + 1, 0);
        }
        self.run = match was_all {
            true => self.run.saturating_mul(2).min(1 << 16),
            false => lines.max(LINES_MIN),
        };
        if lines == 0 {
            self.misses += 1;
            if self.misses == MISSES_MAX {
                (self.misses, self.pass_by) = (0, PASS_BY);
            }
        }
        lines > 0 && was_all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of lines of eight bytes, so many are looked at.
    fn window(run: usize) -> TextWindow {
        TextWindow { line_len_bytes: 8, run, ..TextWindow::default() }
    }

    #[test]
    fn a_window_ends_where_a_line_does() {
        let block = b"1234567\n12345678901\n1234567\n12";
        assert_eq!(window(1).text(block, 1), "1234567\n12345678901\n");
        assert_eq!(window(1).text(block, 2), "1234567\n12345678901\n");
        assert_eq!(window(9).text(block, 3), "1234567\n12345678901\n1234567\n");
        assert_eq!(window(9).text(block, 9).len(), block.len());
    }

    #[test]
    fn a_window_ends_before_what_is_no_text() {
        assert_eq!(window(9).text(b"\xc3\xa9\n1\xff2\n3\n", 9), "\u{e9}\n1");
        assert_eq!(window(9).text(b"\xff1\n", 9), "");
        assert_eq!(window(9).text(b"1\n\xc3", 9), "1\n");
    }

    #[test]
    fn the_more_lines_are_plain_the_more_are_looked_at() {
        let (mut window, block) = (window(1), b"1234567\n".repeat(100));
        let mut looked_at = Vec::new();
        for _ in 0..5 {
            let len_bytes = window.text(&block, 50).len();
            looked_at.push(len_bytes / 8);
            assert!(window.goes_on(len_bytes / 8, len_bytes, true));
        }
        assert_eq!(looked_at, [3, 5, 10, 19, 37]);
        assert!(!window.goes_on(1, 8, false));
        assert!(window.text(&block, 50).len() <= 8 * (2 * LINES_MIN + 2));
    }

    #[test]
    fn where_no_line_is_plain_none_is_tried_for_a_while() {
        let mut window = TextWindow::default();
        for _ in 0..MISSES_MAX {
            assert!(!window.passes_by() && !window.goes_on(0, 0, false));
        }
        assert!((0..PASS_BY).all(|_| window.passes_by()));
        assert!(!window.passes_by());
    }
}
