//! The daemon that runs virtual machines. See docs/vmd.8.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use vmd::daemon::{self, Mode};

/// Runs virtual machines; vmctl(8) controls it.
#[derive(Debug, Parser)]
#[command(name = "vmd", version, max_term_width = 100)]
struct Options {
    /// Stay in the foreground and log to standard error
    #[arg(short)]
    debug: bool,
    /// Check the configuration only
    #[arg(short = 'n')]
    check: bool,
    /// Log more
    #[arg(short)]
    verbose: bool,
    /// Define a macro of the configuration (not in this version)
    #[arg(short = 'D', value_name = "macro=value")]
    macros: Vec<String>,
    /// Configuration file (not in this version)
    #[arg(short, value_name = "file")]
    file: Option<PathBuf>,
    #[arg(long, hide = true)]
    background: bool,
}

fn main() -> ExitCode {
    vmd::process::enter_if_asked();
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if options.background => {
            // Standard output goes to the vmd that a person started.
            println!("{}", vmd::sentence(&e));
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("vmd: {}", vmd::sentence(&e));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(file) = &options.file {
        anyhow::bail!("this version has no configuration files: leave out -f {}", file.display());
    }
    if let Some(text) = options.macros.first() {
        anyhow::bail!("this version has no configuration files, so no macros: leave out -D {text}");
    }
    if options.check {
        eprintln!("configuration OK");
        return Ok(());
    }
    if options.background {
        // Refused only where this process leads a session already.
        let _ = rustix::process::setsid();
        return daemon::run(Mode::Background, options.verbose);
    }
    if options.debug {
        return daemon::run(Mode::Foreground, options.verbose);
    }
    let verbose = if options.verbose { &["--background", "-v"][..] } else { &["--background"] };
    daemon::leave_behind(verbose)
}
