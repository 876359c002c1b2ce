//! The page: one section for each bench, its figures as a table with a bar for each ratio, and its charts.

use crate::chart::escape;
use crate::figure::short;
use crate::folder::BenchReport;
use crate::{FigureLine, Machine};
use std::fmt::Write;

/// Where the goal lies on the track of a bar; twice as much as wanted is cut off at its end.
const GOAL_AT_PERCENT: f64 = 50.0;

const STYLE: &str = include_str!("page.css");

/// The whole page; it needs nothing beside itself.
pub(crate) fn html(benches: &[BenchReport]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Millstream, measured</title>\n<style>\n{STYLE}</style></head><body>\n"
    );
    let all = || benches.iter().flat_map(|bench| &bench.figures);
    // A quick run meets and misses nothing.
    let counts = || all().filter(|figure| !figure.machine.is_quick);
    let over: Vec<&FigureLine> = counts().filter(|figure| figure.is_over()).collect();
    let within = counts().filter(|figure| figure.verdict == "within").count();
    let _ = write!(
        page,
        "<header><h1>Millstream, measured</h1>\n<p>Every figure stands beside its limit from the same run. A bar ends at the ratio of \
         the figure to that limit (or, where there is none, to hand-written code for the same work); the tick is the goal. For rates \
         more is better, for everything else less.</p>\n\
         <p class=\"tally\"><b>{within}</b> goals met <b class=\"{}\">{}</b> missed <b>{}</b> figures in <b>{}</b> benches</p>\n<nav>",
        if over.is_empty() { "" } else { "over" },
        over.len(),
        all().count(),
        benches.len()
    );
    for bench in benches {
        let _ = write!(page, "<a href=\"#{0}\">{0}</a> ", escape(&bench.name));
    }
    page.push_str("</nav></header>\n");
    if !over.is_empty() {
        page.push_str("<section><h2>Missed</h2>\n");
        table(&mut page, &over, true);
        page.push_str("</section>\n");
    }
    benches.iter().for_each(|bench| section(&mut page, bench));
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, bench: &BenchReport) {
    let _ = writeln!(page, "<section id=\"{0}\"><h2>{0}</h2>", escape(&bench.name));
    // A bench run in parts has several machines; the last one speaks for it, warnings stand for all.
    if let Some(figure) = bench.figures.iter().max_by_key(|figure| figure.machine.began_unix_s) {
        let _ = writeln!(page, "<p class=\"machine\">{}</p>", escape(&machine_words(&figure.machine)));
    }
    let mut warnings: Vec<&String> = bench.figures.iter().flat_map(|figure| &figure.machine.warnings).collect();
    warnings.sort();
    warnings.dedup();
    for warning in warnings {
        let _ = writeln!(page, "<p class=\"warning\">Warning: {}</p>", escape(warning));
    }
    if !bench.charts.is_empty() {
        page.push_str("<div class=\"charts\">\n");
        bench.charts.iter().for_each(|chart| {
            let _ = writeln!(page, "<figure>{chart}</figure>");
        });
        page.push_str("</div>\n");
    }
    table(page, &bench.figures.iter().collect::<Vec<_>>(), false);
    page.push_str("</section>\n");
}

fn machine_words(machine: &Machine) -> String {
    let Machine { seconds, steal_percent, others_percent, is_quick, .. } = machine;
    let quick = if *is_quick { "; a quick run, which only proves that it runs" } else { "" };
    format!(
        "{}: {machine}; ran {seconds:.0} s, other processes {others_percent:.0} %, steal {steal_percent:.1} % of a core{quick}",
        utc(machine.began_unix_s)
    )
}

fn table(page: &mut String, figures: &[&FigureLine], names_bench: bool) {
    page.push_str("<div class=\"table\"><table><thead><tr>");
    if names_bench {
        page.push_str("<th>bench</th>");
    }
    page.push_str(
        "<th>scenario</th><th>metric</th><th class=\"n\">figure</th><th class=\"n\">limit</th><th class=\"n\">kernel</th>\
         <th class=\"n\">ratio</th><th>goal</th><th></th></tr></thead><tbody>\n",
    );
    let mut scenario_before = "";
    for figure in figures {
        page.push_str("<tr>");
        if names_bench {
            let _ = write!(page, "<td><a href=\"#{0}\">{0}</a></td>", escape(&figure.bench));
        }
        let is_new = names_bench || figure.scenario != scenario_before;
        let scenario = if is_new { escape(&figure.scenario) } else { String::new() };
        scenario_before = &figure.scenario;
        let number = |value: Option<f64>| value.map_or(String::new(), short);
        let _ = writeln!(
            page,
            "<td class=\"scenario\">{scenario}</td><td>{}</td><td class=\"n\"><b>{}</b> {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>",
            escape(&figure.metric),
            short(figure.value),
            escape(&figure.unit),
            number(figure.limit),
            number(figure.kernel),
            number(figure.ratio),
            escape(figure.goal.as_deref().unwrap_or_default()),
            bar(figure)
        );
    }
    page.push_str("</tbody></table></div>\n");
}

/// The ratio as a bar, the goal as a tick, the verdict as a word: colour alone says nothing.
fn bar(figure: &FigureLine) -> String {
    let (Some(ratio), Some(goal)) = (figure.ratio, figure.goal_ratio()) else { return String::new() };
    let percent = (ratio / goal * GOAL_AT_PERCENT).clamp(0.0, 100.0);
    let verdict = escape(&figure.verdict);
    let class = if figure.is_over() { "bar over" } else { "bar" };
    format!(
        "<span class=\"{class}\"><i style=\"width:{percent:.1}%\"></i><s style=\"left:{GOAL_AT_PERCENT}%\"></s></span> {verdict}"
    )
}

/// Date and time of day; days to a date after Howard Hinnant's civil_from_days.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_since_1970_are_written_as_a_date() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59 UTC");
    }
}
