//! The tool that controls virtual machines. See docs/vmctl.8.

mod attach;
mod command;
mod commands;
mod console;
mod create;
mod daemon;
mod options;
mod request;
mod run;
mod signals;
mod status;
mod terminal;

use clap::Parser;
use options::{Command, Options};
use std::ffi::OsString;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    vmd::process::enter_if_asked();
    let options = match parse(std::env::args_os().collect()) {
        Ok(options) => options,
        Err(status) => return status,
    };
    let level = if options.verbose { "debug" } else { "warn" };
    let filter = EnvFilter::try_from_env("VMCTL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    execute(options).unwrap_or_else(|e| {
        eprintln!("vmctl: {}", vmd::sentence(&e));
        ExitCode::FAILURE
    })
}

/// The options; else what to exit with, the user having been told why.
fn parse(mut arguments: Vec<OsString>) -> Result<Options, ExitCode> {
    let position = arguments.iter().skip(1).position(|a| !a.as_encoded_bytes().starts_with(b"-"));
    if let Some(at) = position.map(|p| p + 1) {
        match command::resolve(&arguments[at].to_string_lossy()) {
            Ok(command) => arguments[at] = command.into(),
            Err(e) => {
                eprintln!("vmctl: {e}");
                return Err(ExitCode::FAILURE);
            }
        }
    }
    Options::try_parse_from(arguments).map_err(|e| {
        let _ = e.print();
        // Help and version are asked for; everything else is misuse.
        if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

fn execute(options: Options) -> anyhow::Result<ExitCode> {
    let json = options.json;
    match options.command {
        Command::Completions { shell } => {
            let mut command = <Options as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "vmctl", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Console { vm } => console::console(&vm),
        Command::Create(create) => create::create(&create),
        Command::Pause { vm } => commands::pause(vm),
        Command::Unpause { vm } => commands::unpause(vm),
        Command::Run(run) => run::run(request::spec(&run.name, &run.machine)?),
        Command::Start(start) => commands::start(&start, json),
        Command::Status { running, vm } => status::status(vm, running, json),
        Command::Stop(stop) => commands::stop(&stop),
        Command::Wait { vm } => commands::wait(vm),
        Command::Load { .. } => unsupported("load: configuration files"),
        Command::Reload => unsupported("reload: configuration files"),
        Command::Reset { .. } => unsupported("reset; stop -a stops all VMs"),
        Command::Log { .. } => unsupported("log; start vmd with -v"),
        Command::Send { .. } => unsupported("send"),
        Command::Receive { .. } => unsupported("receive"),
        Command::Snapshot { .. } => unsupported("snapshot"),
        Command::Restore { .. } => unsupported("restore"),
    }
}

fn unsupported(what: &str) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this version doesn't support {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn parse_prefix_after_global_options_is_resolved() {
        let options = parse(arguments("vmctl -v --json sho 3")).unwrap();
        assert!(options.verbose && options.json);
        assert!(matches!(options.command, Command::Status { running: false, vm: Some(vm) } if vm == "3"));
        assert!(
            matches!(parse(arguments("vmctl stop -fw a")).unwrap().command, Command::Stop(s) if s.force && s.wait)
        );
    }

    #[test]
    fn parse_misuse_is_refused() {
        for line in [
            "vmctl",
            "vmctl st",
            "vmctl console",
            "vmctl stop",
            "vmctl stop -a x",
            "vmctl start -q x",
            "vmctl wait a b",
        ] {
            assert!(parse(arguments(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_is_in_the_table_of_prefixes() {
        let command = <Options as clap::CommandFactory>::command();
        for sub in command.get_subcommands() {
            for name in sub.get_name_and_visible_aliases() {
                assert!(command::COMMANDS.contains(&name), "{name}");
            }
        }
    }
}
