//! Title, axes, grid, legend and lines: what all charts have in common.

use super::scale::Scale;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 46.0;
/// How many colours there are; more lines than that begin again.
const COLOURS: usize = 5;

/// The colours follow the viewer: they are the same alone, in a light page and in a dark one.
const STYLE: &str = "<style>\
.ms-chart{--ink:#1f2328;--soft:#656d76;--grid:#e3e5e8;--c0:#1f6feb;--c1:#8c959f;--c2:#d9730d;--c3:#1a8f5a;--c4:#a04bd0;\
font:12px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){.ms-chart{--ink:#e6edf3;--soft:#9198a1;--grid:#30363d;--c0:#6cb0ff;--c1:#8b949e;--c2:#f0a35e;\
--c3:#57c793;--c4:#c792ea}}\
.ms-chart text{fill:var(--soft)}.ms-chart .title{fill:var(--ink);font-weight:600;font-size:14px}\
.ms-chart .grid{stroke:var(--grid);stroke-width:1}.ms-chart .line{fill:none;stroke-width:2;stroke-linejoin:round}\
</style>";

/// A chart in the making.
pub(super) struct Frame {
    svg: String,
    x: Scale,
    y: Scale,
    line_count: usize,
    legend_x: f64,
}

impl Frame {
    /// Draws the title and both axes; `x_text` and `y_text` write the ticks.
    pub(super) fn new(
        title: &str,
        (x, x_label, x_text): (Scale, &str, &dyn Fn(f64) -> String),
        (y, y_label, y_text): (Scale, &str, &dyn Fn(f64) -> String),
    ) -> Self {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"ms-chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">{STYLE}\n<text class=\"title\" x=\"{LEFT}\" y=\"20\">{title}</text>\n",
            title = escape(title)
        );
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in x.ticks() {
            let at = LEFT + x.place(tick) * (right - LEFT);
            // A long text at the right end would stick out.
            let (anchor, text_at) = if right - at < 30.0 { ("end", WIDTH - 4.0) } else { ("middle", at) };
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>\
                 <text x=\"{text_at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                bottom + 17.0,
                escape(&x_text(tick))
            );
        }
        for tick in y.ticks() {
            let at = bottom - y.place(tick) * (bottom - TOP);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                escape(&y_text(tick))
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text x=\"8\" y=\"{:.1}\">{}</text>",
            HEIGHT - 8.0,
            escape(x_label),
            HEIGHT - 8.0,
            escape(y_label)
        );
        Self { svg, x, y, line_count: 0, legend_x: LEFT }
    }

    /// Draws a line and names it in the legend; `dashed` for what is predicted or only to compare with.
    pub(super) fn line(&mut self, name: &str, points: impl Iterator<Item = (f64, f64)>, dashed: bool) {
        let colour = self.line_count % COLOURS;
        self.line_count += 1;
        let dashes = if dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = (
                LEFT + self.x.place(x) * (WIDTH - RIGHT - LEFT),
                HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - BOTTOM - TOP),
            );
            let _ = write!(path, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(
            self.svg,
            "<polyline class=\"line\" style=\"stroke:var(--c{colour})\"{dashes} points=\"{}\"><title>{name}</title></polyline>\
             <line class=\"line\" style=\"stroke:var(--c{colour})\"{dashes} x1=\"{:.1}\" y1=\"40\" x2=\"{:.1}\" y2=\"40\"/>\
             <text x=\"{:.1}\" y=\"44\">{name}</text>",
            path.trim_end(),
            self.legend_x,
            self.legend_x + 18.0,
            self.legend_x + 24.0,
            name = escape(name)
        );
        // Letters are about 6.3 wide at this size.
        self.legend_x += 42.0 + 6.3 * name.chars().count() as f64;
    }

    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Text that is safe inside SVG and HTML, attributes included.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
