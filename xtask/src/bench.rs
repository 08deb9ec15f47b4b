use std::process::ExitCode;
#[derive(clap::Subcommand)]
pub enum Bench {}
pub fn run(_: &Bench) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
