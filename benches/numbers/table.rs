//! What is printed: a line for each number, beside its target.

use std::fmt;

/// A number of ours, what it is compared with, and whether that is good enough.
pub struct Row {
    what: String,
    ours: String,
    other: String,
    ratio: String,
    target: &'static str,
    met: Option<bool>,
}

impl Row {
    pub const HEAD: &str =
        "| what | ours | other | ratio: median [min–max] | target | met |\n|---|---|---|---|---|---|";

    pub fn new(what: impl Into<String>, ours: impl Into<String>, target: &'static str) -> Row {
        let (other, ratio) = ("–".to_owned(), "–".to_owned());
        Row { what: what.into(), ours: ours.into(), other, ratio, target, met: None }
    }

    pub fn other(self, other: impl Into<String>) -> Row {
        Row { other: other.into(), ..self }
    }

    /// Ours to theirs, turn by turn.
    pub fn ratio(self, ratio: &Sample) -> Row {
        Row { ratio: ratio.show(2, ""), ..self }
    }

    pub fn met(self, met: bool) -> Row {
        Row { met: Some(met), ..self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { what, ours, other, ratio, target, met } = self;
        let met = match met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "–",
        };
        write!(f, "| {what} | {ours} | {other} | {ratio} | {target} | {met} |")
    }
}

/// The same thing measured several times.
pub struct Sample(Vec<f64>);

impl Sample {
    pub const fn new() -> Sample {
        Sample(Vec::new())
    }

    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.as_slice() {
            [] => f64::NAN,
            sorted if sorted.len() % 2 == 1 => sorted[middle],
            sorted => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// Where the median lies with a probability of 95 %, whatever the distribution: between
    /// these order statistics (the binomial one, by its normal approximation).
    pub fn interval(&self) -> (f64, f64) {
        let size = self.0.len() as f64;
        let skip = (size / 2.0 - 0.98 * size.sqrt()).max(0.0) as usize;
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (end(self.0.get(skip)), end(self.0.iter().nth_back(skip)))
    }

    /// `1.02 ms [0.98–1.31]`
    pub fn show(&self, digits: usize, unit: &str) -> String {
        let [low, high] = [self.0.first(), self.0.last()].map(|end| end.copied().unwrap_or(f64::NAN));
        let space = if unit.is_empty() { "" } else { " " };
        format!("{:.digits$}{space}{unit} [{low:.digits$}–{high:.digits$}]", self.median())
    }
}
