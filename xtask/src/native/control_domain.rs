//! The control domain's first root file system: the guests' own, and beside it `vmd`, `vmctl`, and a guest to run.

use anyhow::{Context, Result};

use super::Platform;
use super::programs::Programs;
use crate::guest_script;
use crate::guests::Guest;
use crate::guests::cpio::Archive;

/// What the control domain runs, where that is too long for a command line.
const RUN: &str = "guest/run";
/// The first serial port of QEMU's board and of ours.
const CONSOLE: &str = "console=ttyAMA0";

/// What a control domain does once it has booted.
pub enum Role {
    /// Its own shell, or this script, whose output is marked with the token.
    ControlDomain { script: Option<String>, token: String },
    /// It runs a guest, with these words on its command line.
    Guest { words: String, memory: String, cpus: u32, interactive: bool },
}

impl Role {
    /// The control domain's kernel command line.
    pub fn command_line(&self, platform: Platform) -> String {
        // A control domain that panics is to end, not to wait.
        let first = match platform {
            Platform::Arm64 | Platform::Armhf => format!("{CONSOLE} panic=-1"),
        };
        match self {
            Role::ControlDomain { script: None, .. } => first,
            Role::ControlDomain { script: Some(_), token } => format!("{first} quiet {}", run(token)),
            Role::Guest { .. } => format!("{first} quiet {}", run("control-domain")),
        }
    }

    /// The control domain's script: its own, or what runs the guest.
    fn script(&self) -> Option<String> {
        let (words, memory, cpus, interactive) = match self {
            Role::ControlDomain { script, .. } => return script.clone(),
            Role::Guest { words, memory, cpus, interactive } => (words, memory, cpus, interactive),
        };
        let cmdline = if *interactive { CONSOLE.to_owned() } else { format!("{CONSOLE} quiet {words}") };
        let vmctl = [
            "vmctl",
            "run",
            "-b",
            "/guest/vmlinuz",
            "--initrd",
            "/guest/initrd.img",
            "--cmdline",
            &cmdline,
            "-m",
            memory,
            "-p",
            &cpus.to_string(),
            "demo",
        ];
        let vmctl = guest_script::quote(&vmctl.map(str::to_owned));
        // The script's own input is /dev/null; a person types at the console.
        let input = if *interactive { " </dev/console" } else { "" };
        Some(format!("{vmctl}{input}\necho \"vmctl ended with status $?\"\n"))
    }
}

/// The words that have a machine run [`RUN`].
fn run(token: &str) -> String {
    guest_script::words_unchecked(&format!("sh /{RUN}"), token)
}

/// The archive: that of the board's own Debian, then one with what a control domain has more, `guest` among it. Linux unpacks one after the other.
pub fn initrd(own: &Guest, guest: &Guest, programs: &Programs, role: &Role) -> Result<Vec<u8>> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).with_context(|| format!("could not read {}", path.display()))
    };
    let mut archive = read(&own.initrd)?;
    let mut more = Archive::default();
    more.file("bin/vmctl", 0o755, &read(&programs.vmctl)?);
    more.file("bin/vmd", 0o755, &read(&programs.vmd)?);
    more.directory("guest", 0o755);
    more.file("guest/vmlinuz", 0o644, &read(&guest.kernel)?);
    let mut guest_initrd = read(&guest.initrd)?;
    more.file("bin/trials", 0o755, &read(&programs.trials)?);
    if own.kernel == guest.kernel {
        // A guest of the same kind can run the tests' program too.
        let mut for_guest = Archive::default();
        for_guest.file("bin/trials", 0o755, &read(&programs.trials)?);
        guest_initrd.extend(for_guest.finish());
    }
    more.file("guest/initrd.img", 0o644, &guest_initrd);
    if let Some(script) = role.script() {
        more.file(RUN, 0o755, script.as_bytes());
    }
    archive.extend(more.finish());
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_guest_s_words_survive_the_shell() {
        let role = Role::Guest {
            words: "auberge.run=eA== auberge.token=t".into(),
            memory: "256M".into(),
            cpus: 2,
            interactive: false,
        };
        let script = role.script().expect("a script");
        assert!(
            script
                .contains("--cmdline 'console=ttyAMA0 quiet auberge.run=eA== auberge.token=t' -m 256M -p 2")
        );
        assert!(!script.contains("/dev/console"));
        assert!(role.command_line(Platform::Arm64).contains("auberge.token=control-domain"));
    }

    #[test]
    fn command_line_of_a_control_domain_for_a_person_runs_nothing() {
        let role = Role::ControlDomain { script: None, token: String::new() };
        assert!(!role.command_line(Platform::Armhf).contains("auberge.run"));
        assert!(role.script().is_none());
        let script = Some("x".repeat(5000));
        let role = Role::ControlDomain { script: script.clone(), token: "t".into() };
        assert!(role.command_line(Platform::Armhf).len() < 200 && role.script() == script);
    }
}
