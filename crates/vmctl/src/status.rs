//! `vmctl status`.

use crate::daemon;
use std::process::ExitCode;
use vm_conf::size;
use vmd::client;
use vmd::protocol::{Reply, Request, State, VmInfo};

/// Lists the VMs; the status is 1 when there are none.
pub fn status(vm: Option<String>, running: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut vms = match daemon::connect() {
        Ok(client) => match client.request(&Request::Status { vm })? {
            Reply::Vms { vms } => vms,
            _ => return Err(client::Error::Unexpected.into()),
        },
        // No daemon has no VMs.
        Err(e) if daemon::is_absent(&e) && vm.is_none() => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    if running {
        vms.retain(|vm| vm.state != State::Stopped);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&vms)?);
    } else {
        print!("{}", table(&vms));
    }
    Ok(if vms.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// OpenBSD's table.
fn table(vms: &[VmInfo]) -> String {
    let mut out =
        line(["ID", "PID", "VCPUS", "MAXMEM", "CURMEM", "TTY", "OWNER", "STATE", "NAME"].map(String::from));
    for vm in vms {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        out += &line([
            vm.id.to_string(),
            or_dash(vm.pid.map(|pid| pid.to_string())),
            vm.vcpus.to_string(),
            size::format(vm.max_memory),
            or_dash(vm.current_memory.map(size::format)),
            or_dash(vm.tty.as_ref().map(|tty| tty.strip_prefix("/dev/").unwrap_or(tty).to_string())),
            vm.owner.clone(),
            vm.state.as_str().to_string(),
            vm.name.clone(),
        ]);
    }
    out
}

fn line([id, pid, vcpus, max, current, tty, owner, state, name]: [String; 9]) -> String {
    format!("{id:>5} {pid:>5} {vcpus:>5} {max:>7} {current:>7} {tty:>7} {owner:>12} {state:>8} {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_openbsds_columns() {
        let vm = VmInfo {
            id: 1,
            pid: Some(4711),
            vcpus: 2,
            max_memory: 512 << 20,
            current_memory: Some(3 << 19),
            tty: Some("/dev/pts/3".into()),
            owner: "alice".into(),
            state: State::Running,
            name: "web".into(),
        };
        let stopped =
            VmInfo { id: 2, pid: None, current_memory: None, tty: None, state: State::Stopped, ..vm.clone() };
        assert_eq!(
            table(&[vm, stopped]),
            "   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME\n\
             \x20   1  4711     2    512M    1.5M   pts/3        alice  running web\n\
             \x20   2     -     2    512M       -       -        alice  stopped web\n"
        );
    }
}
