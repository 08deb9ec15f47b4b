//! `cargo xtask bench native-arm`: what it costs a guest to leave for its hypervisor and come back, in instructions that QEMU counts.

mod costs;
mod guest;
mod systems;
mod table;
mod xen;

use std::process::ExitCode;

use anyhow::Result;

use super::{machine, qemu};
use crate::ends::Ends;
use crate::guests;
use crate::native::{Board, Gic, Platform};
use systems::{Bench, System};
use table::{Measured, Report};

#[derive(clap::Args)]
#[command(
    after_help = "Boots Auberge, Debian's Xen and Debian's KVM one after the other on the same emulated board of one processor, each with the \
                  same guest, which does each operation again and again. QEMU runs with -icount, so that the guest's counter counts the \
                  instructions that the board executed: the guest's, the hypervisor's, and a kernel's and a program's where these take part."
)]
pub struct Args {
    /// Only the boards of this architecture
    #[arg(long, value_enum)]
    arch: Option<Platform>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The boards: the interrupt controller's two versions, and the 32-bit one.
const BOARDS: [(Platform, Gic); 3] =
    [(Platform::Arm64, Gic::V2), (Platform::Arm64, Gic::V3), (Platform::Armhf, Gic::V2)];

pub fn run(args: &Args) -> Result<ExitCode> {
    let ends = Ends::install()?;
    let mut boards = Vec::new();
    let mut sources = Vec::new();
    for platform in [Platform::Arm64, Platform::Armhf] {
        if args.arch.is_some_and(|arch| arch != platform) {
            continue;
        }
        let bench = Bench::new(platform)?;
        for (_, gic) in BOARDS.into_iter().filter(|&(of, _)| of == platform) {
            let board = Board::new(platform, Some(gic))?.with_one_cpu();
            let mut costs = Vec::new();
            for system in System::ALL.into_iter().filter(|system| system.runs_on(platform)) {
                costs.push((system, bench.costs(system, &board, &ends)?));
            }
            boards.push(Measured::new(&board, platform, &costs));
        }
        for source in [guests::sources(platform.arch()), guests::xen_sources(platform.arch())].concat() {
            // Both platforms' busybox has one name.
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    let report = Report {
        bench: "native-arm",
        auberge: machine::auberge_version(),
        qemu: qemu::version(qemu::program(Platform::Arm64.arch())?)?,
        sources,
        boards,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::text(&report));
    }
    Ok(ExitCode::SUCCESS)
}
