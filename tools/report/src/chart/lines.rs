//! Values over a number that doubles: slots, cores, keys.

use super::frame::Frame;
use super::scale::{Scale, number};

/// One line of a chart.
pub struct Line<'a> {
    /// Shown in the legend.
    pub name: &'a str,
    /// The number and the value there.
    pub points: &'a [(f64, f64)],
    /// Whether it was predicted or is only there to compare with.
    pub is_dashed: bool,
}

/// Values from 0 on, over doublings.
pub fn lines(title: &str, x_label: &str, y_label: &str, lines: &[Line<'_>]) -> String {
    let all = || lines.iter().flat_map(|line| line.points);
    let x = (Scale::doublings(all().map(|(x, _)| *x)), x_label, &number as &dyn Fn(f64) -> String);
    let y = (Scale::linear(all().map(|(_, y)| *y).fold(0.0, f64::max)), y_label, &number as &dyn Fn(f64) -> String);
    let mut frame = Frame::new(title, x, y);
    for line in lines {
        frame.line(line.name, line.points.iter().copied(), line.is_dashed);
    }
    frame.finish()
}
