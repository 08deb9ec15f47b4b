//! What the rounds found, put together: medians, ratios, means, and what was wrong. `--json` prints it as it is.

use serde::Serialize;

use super::console::{Measured, Outcome, Session};
use super::rows::{Group, Row};
use super::statistics::{geometric_mean, median};

/// A guest's clock that goes wrong by more than this part, and by more than [`CLOCK_SLACK`], is a finding.
const CLOCK_PART: f64 = 0.05;
/// In nanoseconds: how late this program may hear of a row.
const CLOCK_SLACK: f64 = 500e6;

/// Which time the ratios are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The time on the clock: the shortest repetition
    Wall,
    /// The processor time that this machine spent: the mean repetition. For a busy machine
    Cpu,
}

/// All times in seconds, all sizes in bytes.
#[derive(Serialize)]
pub struct Report {
    pub bench: &'static str,
    pub machine: String,
    /// Processes that wanted to run here in the minute before, as the kernel counts them.
    pub load_before: f64,
    pub guest: String,
    pub auberge: String,
    pub engine: String,
    pub qemu: String,
    pub runs: u32,
    pub clock: Clock,
    pub rows: Vec<RowReport>,
    pub means: Vec<Mean>,
    pub boots: Vec<Boot>,
    pub memory: Option<Memory>,
    pub make: Option<Make>,
    pub problems: Vec<String>,
}

#[derive(Serialize)]
pub struct RowReport {
    pub name: &'static str,
    pub what: &'static str,
    pub native: Option<Times>,
    pub auberge: Option<Times>,
    pub qemu: Option<Times>,
    pub auberge_by_native: Option<f64>,
    pub qemu_by_native: Option<f64>,
    /// Over 1 where Auberge is faster.
    pub qemu_by_auberge: Option<f64>,
    /// Why it wasn't measured, where it couldn't be.
    pub skipped: Option<String>,
    #[serde(skip)]
    group: Group,
    #[serde(skip)]
    goal: bool,
}

/// A row's times in one place: medians over the runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// The shortest repetition by the place's clock.
    pub wall: f64,
    /// The mean repetition by this machine's processors.
    pub cpu: f64,
}

impl Times {
    pub fn by(self, clock: Clock) -> f64 {
        match clock {
            Clock::Wall => self.wall,
            Clock::Cpu => self.cpu,
        }
    }
}

/// Geometric means over some of the rows.
#[derive(Serialize)]
pub struct Mean {
    pub over: &'static str,
    pub rows: usize,
    pub auberge_by_native: Option<f64>,
    pub qemu_by_auberge: Option<f64>,
}

#[derive(Serialize)]
pub struct Boot {
    pub arch: String,
    pub auberge: f64,
    pub qemu: f64,
    pub qemu_by_auberge: f64,
}

/// What Auberge's processes took beyond the guest's RAM.
#[derive(Serialize)]
pub struct Memory {
    pub at_boot: u64,
    pub after_rows: Option<u64>,
}

/// The time of one compilation with one processor and with two, in seconds: medians.
#[derive(Serialize)]
pub struct Make {
    pub auberge_one: f64,
    pub auberge_two: f64,
    pub auberge_speed_up: f64,
    /// One job in the VM of two processors: what two jobs gain there.
    pub auberge_one_of_two: f64,
    pub auberge_jobs_speed_up: f64,
    pub native_one: f64,
    pub native_two: f64,
    pub native_speed_up: f64,
}

/// One run of all rows in the three places.
pub struct Round {
    pub native: Session,
    pub auberge: Session,
    pub qemu: Session,
}

impl Round {
    fn places(&self) -> [(&'static str, &Session); 3] {
        [("native", &self.native), ("Auberge", &self.auberge), ("QEMU", &self.qemu)]
    }
}

/// Each row's report, and sentences about what was wrong.
pub fn rows(rows: &[&'static Row], rounds: &[Round], clock: Clock) -> (Vec<RowReport>, Vec<String>) {
    let mut problems = Vec::new();
    let reports = rows.iter().map(|row| report(row, rounds, clock, &mut problems)).collect();
    (reports, problems)
}

fn report(row: &'static Row, rounds: &[Round], clock: Clock, problems: &mut Vec<String>) -> RowReport {
    let mut skipped = None;
    let mut checksums: Vec<(&str, &str)> = Vec::new();
    for (place, session) in rounds.iter().flat_map(Round::places) {
        match session.rows.get(row.name) {
            Some(Outcome::Measured(measured)) => {
                checksums.push((place, &measured.sample.checksum));
                if let (Some(problem), true) = (wrong_clock(measured), place != "native") {
                    problems.push(format!("{} in {place}: {problem}", row.name));
                }
            }
            Some(Outcome::Skipped(why)) => skipped = Some(format!("{place}: {why}")),
            Some(Outcome::Failed(why)) => problems.push(format!("{} failed in {place}: {why}", row.name)),
            None => problems.push(format!("{} gave no result in {place}", row.name)),
        }
    }
    if checksums.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        let list: Vec<String> = checksums.iter().map(|(place, sum)| format!("{place} {sum}")).collect();
        problems.push(format!("{} has different results: {}", row.name, list.join(", ")));
    }
    let [native, auberge, qemu] = [0, 1, 2].map(|place| times(row.name, rounds, place));
    let ratio = |a: Option<Times>, b: Option<Times>| Some(a?.by(clock) / b?.by(clock));
    RowReport {
        name: row.name,
        what: row.what,
        native,
        auberge,
        qemu,
        auberge_by_native: ratio(auberge, native),
        qemu_by_native: ratio(qemu, native),
        qemu_by_auberge: ratio(qemu, auberge),
        skipped,
        group: row.group,
        goal: row.goal,
    }
}

/// What the place's clock has wrong beside this machine's.
fn wrong_clock(measured: &Measured) -> Option<String> {
    let (inside, outside) = (measured.sample.total as f64, measured.elapsed as f64);
    let off = (outside - inside).abs();
    (off > CLOCK_SLACK && off > outside * CLOCK_PART).then(|| {
        format!("its clock counted {:.2} s while {:.2} s passed outside", inside / 1e9, outside / 1e9)
    })
}

/// The medians over the rounds, where each has measured the row.
fn times(name: &str, rounds: &[Round], place: usize) -> Option<Times> {
    let measured: Vec<&Measured> = rounds
        .iter()
        .map(|round| match round.places()[place].1.rows.get(name) {
            Some(Outcome::Measured(measured)) => Some(measured),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let seconds = |of: fn(&Measured) -> u64| -> f64 {
        median(&measured.iter().map(|one| of(one) as f64 / 1e9).collect::<Vec<_>>())
    };
    (!measured.is_empty())
        .then(|| Times { wall: seconds(|one| one.sample.best), cpu: seconds(|one| one.cpu) })
}

/// The means over all rows, those that goals are stated for, and Debian's programs, as far as they were measured.
pub fn means(rows: &[RowReport]) -> Vec<Mean> {
    let mean = |over, wants: &dyn Fn(&RowReport) -> bool| {
        let chosen: Vec<&RowReport> =
            rows.iter().filter(|row| row.qemu_by_auberge.is_some() && wants(row)).collect();
        Mean {
            over,
            rows: chosen.len(),
            auberge_by_native: geometric_mean(chosen.iter().filter_map(|row| row.auberge_by_native)),
            qemu_by_auberge: geometric_mean(chosen.iter().filter_map(|row| row.qemu_by_auberge)),
        }
    };
    let means = [
        mean("all rows", &|_| true),
        mean("rows with goals", &|row| row.goal),
        mean("Debian's programs", &|row| row.group == Group::Debian),
    ];
    means.into_iter().filter(|mean| mean.rows > 0).collect()
}

#[cfg(test)]
pub mod tests {
    use super::super::lines::Sample;
    use super::super::rows::ROWS;
    use super::*;

    pub fn measured(best: u64, checksum: &str) -> Outcome {
        let sample = Sample {
            repeats: 2,
            best,
            median: best,
            total: 2 * best,
            cpu: 2 * best,
            checksum: checksum.into(),
        };
        Outcome::Measured(Measured { sample, elapsed: 2 * best, cpu: best + 1 })
    }

    fn session(rows: &[(&str, Outcome)]) -> Session {
        let rows = rows.iter().map(|(name, outcome)| ((*name).to_owned(), outcome.clone())).collect();
        Session { rows, ..Session::default() }
    }

    fn round(native: u64, auberge: u64, qemu: u64) -> Round {
        let one = |best| session(&[("sha256", measured(best, "aa"))]);
        Round { native: one(native), auberge: one(auberge), qemu: one(qemu) }
    }

    #[test]
    fn rows_three_rounds_give_medians_and_their_ratios() {
        let rounds = [round(10, 30, 100), round(12, 20, 120), round(11, 900, 110)];
        let (reports, problems) = rows(&[&ROWS[0]], &rounds, Clock::Wall);
        assert_eq!(problems, Vec::<String>::new());
        let row = &reports[0];
        assert_eq!(row.native.expect("times").wall, 11e-9);
        assert!((row.auberge_by_native.expect("a ratio") - 30.0 / 11.0).abs() < 1e-9);
        assert!((row.qemu_by_auberge.expect("a ratio") - 110.0 / 30.0).abs() < 1e-9);
        let (reports, _) = rows(&[&ROWS[0]], &rounds, Clock::Cpu);
        assert!((reports[0].qemu_by_auberge.expect("a ratio") - 111.0 / 31.0).abs() < 1e-9);
    }

    #[test]
    fn rows_different_checksum_in_one_place_is_a_problem() {
        let mut bad = round(1, 2, 3);
        bad.auberge = session(&[("sha256", measured(2, "bb"))]);
        let (_, problems) = rows(&[&ROWS[0]], &[round(1, 2, 3), bad], Clock::Wall);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("different results") && problems[0].contains("Auberge bb"));
    }

    #[test]
    fn rows_failed_or_lost_row_is_a_problem_and_has_no_ratio() {
        let mut lost = round(1, 2, 3);
        lost.qemu = session(&[]);
        lost.auberge = session(&[("sha256", Outcome::Failed("it ended".into()))]);
        let (reports, problems) = rows(&[&ROWS[0]], &[round(1, 2, 3), lost], Clock::Wall);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(reports[0].auberge.is_none() && reports[0].qemu_by_auberge.is_none());
        assert!(means(&reports).is_empty());
    }

    #[test]
    fn rows_skipped_row_is_no_problem() {
        let mut without = round(1, 2, 3);
        without.qemu = session(&[("sha256", Outcome::Skipped("no such instruction".into()))]);
        let (reports, problems) = rows(&[&ROWS[0]], &[without], Clock::Wall);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(reports[0].skipped.as_deref(), Some("QEMU: no such instruction"));
    }

    #[test]
    fn rows_guest_whose_clock_stands_still_is_a_problem() {
        let mut slow = round(1, 2, 3);
        let Outcome::Measured(mut one) = measured(1_000_000_000, "aa") else { unreachable!() };
        one.elapsed = 3_000_000_000;
        slow.auberge = session(&[("sha256", Outcome::Measured(one))]);
        let (_, problems) = rows(&[&ROWS[0]], &[slow], Clock::Wall);
        assert!(problems[0].contains("2.00 s while 3.00 s"), "{problems:?}");
    }
}
