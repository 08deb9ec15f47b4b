//! The report as a person reads it.

use std::fmt::Write as _;

use super::report::{Clock, Report, RowReport, Times};

/// The whole report, lines of at most 100 characters or so.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = heading(&mut text, report).and_then(|()| body(&mut text, report));
    text
}

fn heading(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(text, "machine:  {}, load {:.1} before", report.machine, report.load_before)?;
    writeln!(text, "guest:    {}", report.guest)?;
    writeln!(text, "Auberge:  {}, engine {}", report.auberge, report.engine)?;
    writeln!(text, "TCG:      {}", report.qemu)?;
    let (times, what) = match report.clock {
        Clock::Wall => ("shortest repetition", "on the clock"),
        Clock::Cpu => ("mean repetition", "of the host's processors"),
    };
    writeln!(text, "times:    {times}, {what}, median of {} run(s)", report.runs)
}

fn body(text: &mut String, report: &Report) -> std::fmt::Result {
    if !report.rows.is_empty() {
        writeln!(
            text,
            "\n{:24} {:>9} {:>11} {:>11} {:>8} {:>9} {:>9}",
            "", "native", "Auberge", "TCG", "ours ÷", "TCG ÷", "TCG ÷"
        )?;
        writeln!(
            text,
            "{:24} {:>9} {:>11} {:>11} {:>8} {:>9} {:>9}",
            "", "ms", "ms", "ms", "native", "native", "ours"
        )?;
    }
    for row in &report.rows {
        row_line(text, row, report.clock)?;
    }
    if !report.means.is_empty() {
        writeln!(text)?;
    }
    for mean in &report.means {
        let over = format!("geometric mean, {} {}", mean.rows, mean.over);
        let (ours, theirs) = (ratio(mean.auberge_by_native), ratio(mean.qemu_by_auberge));
        writeln!(text, "{over:58} {ours:>8} {:>9} {theirs:>9}", "")?;
    }
    if !report.boots.is_empty() {
        writeln!(text)?;
    }
    for boot in &report.boots {
        let what = format!("boot to init, {}", boot.arch);
        let (ours, theirs) = (format!("{:.2} s", boot.auberge), format!("{:.2} s", boot.qemu));
        let ratio = ratio(Some(boot.qemu_by_auberge));
        writeln!(text, "{what:24} {:>9} {ours:>11} {theirs:>11} {:>8} {:>9} {ratio:>9}", "", "", "")?;
    }
    if let Some(make) = &report.make {
        writeln!(text)?;
        for (who, one, two, speed_up) in [
            ("Auberge", make.auberge_one, make.auberge_two, make.auberge_speed_up),
            ("native", make.native_one, make.native_two, make.native_speed_up),
        ] {
            writeln!(
                text,
                "make, {who}: {one:.2} s with one processor, {two:.2} s with two (-j2): {speed_up:.2} times as fast"
            )?;
        }
        let (one, speed_up) = (make.auberge_one_of_two, make.auberge_jobs_speed_up);
        writeln!(
            text,
            "make, Auberge with two processors: {one:.2} s with -j1; -j2 is {speed_up:.2} times as fast"
        )?;
    }
    if let Some(memory) = &report.memory {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let after = memory.after_rows.map(|bytes| format!(", {:.1} MiB after the rows", mib(bytes)));
        writeln!(
            text,
            "\nmemory beyond the guest's: {:.1} MiB at boot{}",
            mib(memory.at_boot),
            after.unwrap_or_default()
        )?;
    }
    for problem in &report.problems {
        writeln!(text, "\nWRONG: {problem}")?;
    }
    Ok(())
}

fn row_line(text: &mut String, row: &RowReport, clock: Clock) -> std::fmt::Result {
    let milliseconds =
        |times: Option<Times>| times.map_or("-".into(), |times| format!("{:.2}", times.by(clock) * 1e3));
    write!(
        text,
        "{:24} {:>9} {:>11} {:>11} {:>8} {:>9} {:>9}",
        row.what,
        milliseconds(row.native),
        milliseconds(row.auberge),
        milliseconds(row.qemu),
        ratio(row.auberge_by_native),
        ratio(row.qemu_by_native),
        ratio(row.qemu_by_auberge)
    )?;
    match &row.skipped {
        Some(why) => writeln!(text, "  {why}"),
        None => writeln!(text),
    }
}

/// Three digits that matter, more or less.
fn ratio(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{self, Boot, Make, Memory, Round};
    use super::super::rows::ROWS;
    use super::*;
    use crate::bench::console::Session;

    fn report() -> Report {
        let one = |milliseconds: u64| {
            let outcome = report::tests::measured(milliseconds * 1_000_000, "aa");
            Session { rows: [(ROWS[0].name.to_owned(), outcome)].into(), ..Session::default() }
        };
        let rounds = [Round { native: one(10), auberge: one(20), qemu: one(2300) }];
        let (rows, problems) = report::rows(&[&ROWS[0], &ROWS[1]], &rounds, Clock::Wall);
        let means = report::means(&rows);
        Report {
            bench: "translate",
            machine: "a processor x 2".into(),
            load_before: 0.25,
            guest: "Debian".into(),
            auberge: "Auberge 0.1".into(),
            engine: "translate".into(),
            qemu: "QEMU".into(),
            runs: 1,
            clock: Clock::Wall,
            rows,
            means,
            boots: vec![Boot { arch: "amd64".into(), auberge: 1.5, qemu: 3.0, qemu_by_auberge: 2.0 }],
            memory: Some(Memory { at_boot: 3 << 20, after_rows: None }),
            make: Some(Make {
                auberge_one: 20.0,
                auberge_two: 10.0,
                auberge_speed_up: 2.0,
                auberge_one_of_two: 18.0,
                auberge_jobs_speed_up: 1.8,
                native_one: 4.0,
                native_two: 2.0,
                native_speed_up: 2.0,
            }),
            problems,
        }
    }

    #[test]
    fn text_row_shows_times_in_milliseconds_and_ratios() {
        let text = text(&report());
        let line = text.lines().find(|line| line.starts_with(ROWS[0].what)).expect("the row");
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        assert_eq!(words, ["10.00", "20.00", "2300.00", "2.00", "230", "115"]);
        let mean =
            text.lines().find(|line| line.starts_with("geometric mean, 1 all rows")).expect("the mean");
        assert_eq!(mean.split_whitespace().rev().take(2).collect::<Vec<_>>(), ["115", "2.00"]);
    }

    #[test]
    fn text_columns_stand_below_each_other() {
        let text = text(&report());
        let ends = |line: &str| line.chars().count();
        let row = text.lines().find(|line| line.starts_with(ROWS[0].what)).expect("the row");
        for beginning in ["geometric mean, 1 all", "boot to init, amd64"] {
            let line = text.lines().find(|line| line.starts_with(beginning)).expect("the line");
            assert_eq!(ends(line), ends(row), "{line}");
        }
    }

    #[test]
    fn text_says_boot_make_memory_and_what_is_wrong() {
        let text = text(&report());
        for part in [
            "1.50 s",
            "2.00 times as fast",
            "18.00 s with -j1; -j2 is 1.80",
            "3.0 MiB at boot",
            "WRONG: quicksort gave no result in native",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn report_as_json_has_the_rows_names() {
        let json = serde_json::to_value(report()).expect("JSON");
        assert_eq!(json["rows"][0]["name"], "sha256");
        assert_eq!(json["clock"], "wall");
        assert!(json["rows"][1]["qemu_by_auberge"].is_null());
    }
}
