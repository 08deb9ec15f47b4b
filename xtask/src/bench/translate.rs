//! `cargo xtask bench translate`: the same programs on this machine, in Auberge and in QEMU's TCG, in one run.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};

use super::console::{Outcome, Session};
use super::places::{Debian, Places};
use super::report::{self, Boot, Clock, Make, Memory, Report, Round};
use super::rows::{self, Chosen};
use super::statistics::median;
use super::{boot, machine, programs, qemu, table};
use crate::ends::Ends;
use crate::guests::{self, Arch, Disk};
use crate::host;

#[derive(clap::Args)]
#[command(
    after_help = "Every row's work is the same in all three places, and so has to be its result. The table names \
                        the geometric means over its rows. The exit status is 1 when a row failed or its results \
                        differ. What the rows are: docs/performance.md."
)]
pub struct Args {
    /// Only these rows, separated by commas: names, or own, debian, boot-amd64, boot-i386, make-j2
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds through all places, and boots on each side; medians are compared
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The engine, as vmctl names it
    #[arg(long, value_name = "NAME", default_value = "translate")]
    engine: String,
    /// The time that is compared
    #[arg(long, value_enum, default_value_t = Clock::Wall)]
    clock: Clock,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = rows::choose(&args.rows).map_err(|error| anyhow!(error))?;
    let load_before = load();
    let (guest, disk) = if chosen.needs_debian() {
        let Disk { guest, image, tree } = guests::ensure_disk()?;
        (guest, Some((image, tree)))
    } else {
        (guests::ensure(Arch::Amd64)?, None)
    };
    let programs = programs::make(&guest.initrd)?;
    let qemu = qemu::program(Arch::Amd64)?;
    let vmctl = host::build_release()?.join("vmctl");
    let ends = Ends::install()?;
    let debian = disk.map(|(image, tree)| Debian::copy(&image, tree, &programs.folder, &ends)).transpose()?;
    let places = Places { vmctl, engine: args.engine.clone(), guest, programs, debian };

    let rounds = rounds(&places, &chosen, args.runs, &ends)?;
    let (rows, mut problems) = report::rows(&chosen.rows, &rounds, args.clock);
    let make = chosen.make.then(|| make(&places, args.runs, &mut problems, &ends)).transpose()?;
    let report = Report {
        bench: "translate",
        machine: host::processor(),
        load_before,
        guest: guests::sources(Arch::Amd64).join(", "),
        auberge: machine::auberge_version(),
        engine: args.engine.clone(),
        qemu: qemu::version(qemu)?,
        runs: args.runs,
        clock: args.clock,
        means: report::means(&rows),
        rows,
        boots: boots(&places, &chosen, args.runs, &ends)?,
        memory: rounds.last().and_then(memory),
        make,
        problems,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::text(&report));
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Place after place in each round, so that a busy moment of this machine doesn't hit one place only.
fn rounds(places: &Places, chosen: &Chosen, runs: u32, ends: &Ends) -> Result<Vec<Round>> {
    let names: Vec<&str> = chosen.rows.iter().map(|row| row.name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    (0..runs)
        .map(|_| {
            Ok(Round {
                native: places.native(&names, ends)?,
                auberge: places.auberge(&names, 1, ends)?,
                qemu: places.qemu(&names, ends)?,
            })
        })
        .collect()
}

fn boots(places: &Places, chosen: &Chosen, runs: u32, ends: &Ends) -> Result<Vec<Boot>> {
    let wanted = [(Arch::Amd64, chosen.boot_amd64), (Arch::I386, chosen.boot_i386)];
    let wanted = wanted.iter().filter(|(_, wanted)| *wanted);
    wanted
        .map(|&(arch, _)| {
            let times = boot::measure(arch, &places.vmctl, Some(&places.engine), runs, Some(ends))?;
            let (auberge, qemu) = (median(&times.auberge), median(&times.qemu));
            Ok(Boot { arch: arch.to_string(), auberge, qemu, qemu_by_auberge: qemu / auberge })
        })
        .collect()
}

/// One compilation with one processor, and the same with two, in turns.
fn make(places: &Places, runs: u32, problems: &mut Vec<String>, ends: &Ends) -> Result<Make> {
    let [one, two] = rows::MAKE_JOBS;
    let mut results = Vec::new();
    let mut seconds = |session: &Session, row: &str| -> Result<f64> {
        let Some(Outcome::Measured(measured)) = session.rows.get(row) else {
            return Err(anyhow!("{row} gave no result: {:?}", session.rows.get(row)));
        };
        results.push(measured.sample.checksum.clone());
        Ok(measured.sample.best as f64 / 1e9)
    };
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..runs {
        let native = places.native(&[one, two], ends)?;
        let mut auberge = |row, processors| -> Result<f64> {
            let session = places.auberge(&[row], processors, ends)?;
            seconds(&session, row).with_context(|| format!("Auberge, {processors} processor(s)"))
        };
        let [a, b, c] = [auberge(one, 1)?, auberge(one, 2)?, auberge(two, 2)?];
        let all = [seconds(&native, one)?, seconds(&native, two)?, a, b, c];
        times.iter_mut().zip(all).for_each(|(times, time)| times.push(time));
    }
    if results.windows(2).any(|pair| pair[0] != pair[1]) {
        problems.push(format!("make has different results: {}", results.join(", ")));
    }
    let [native_one, native_two, auberge_one, auberge_one_of_two, auberge_two] =
        times.map(|times| median(&times));
    Ok(Make {
        auberge_one,
        auberge_two,
        auberge_speed_up: auberge_one / auberge_two,
        auberge_one_of_two,
        auberge_jobs_speed_up: auberge_one_of_two / auberge_two,
        native_one,
        native_two,
        native_speed_up: native_one / native_two,
    })
}

fn memory(round: &Round) -> Option<Memory> {
    let found = &round.auberge.memory;
    Some(Memory { at_boot: *found.get("boot")?, after_rows: found.get("rows").copied() })
}

/// The load average of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}
