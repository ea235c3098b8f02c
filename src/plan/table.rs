//! Rows of a table: a name, and what is said of it.

/// The width of the first column.
const WIDTH: usize = 18;

/// One row. Further lines of `text` stand below its first.
pub fn row(name: &str, text: &str) -> String {
    let lines = text.lines().enumerate();
    lines.map(|(at, line)| format!("{:<WIDTH$} {line}\n", if at == 0 { name } else { "" })).collect()
}

/// The same, if there is something to say.
pub fn row_of(name: &str, texts: &[String]) -> String {
    texts.iter().enumerate().map(|(at, text)| row(if at == 0 { name } else { "" }, text)).collect()
}
