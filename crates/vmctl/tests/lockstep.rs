//! `--engine translate:lockstep`: the beginning of Debian's kernels, translated and interpreted at the same time.
//!
//! Whole boots take minutes: `cargo xtask lockstep`.
#![cfg(target_arch = "x86_64")]

mod common;
mod guest;

use common::Place;
use guest::{Kernel, Linux};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Compared instructions that are enough: the kernel unpacks itself, and has begun to set itself up.
const ENOUGH: u64 = 100_000_000;

/// Boots until so many instructions were alike, and ends the VM. It must not end by itself.
fn boots_alike(kernel: Kernel) {
    let place = Place::new();
    let linux = Linux::new(kernel).options("--engine translate:lockstep");
    let mut command = linux.command(&place, "run", "linux");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        let count =
            line.strip_prefix("lockstep: ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        if count.is_some_and(|count| count >= ENOUGH) {
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        }
        said += &line;
        said.push('\n');
    }
    panic!("{}: {said}", child.wait().unwrap());
}

#[test]
fn amd64_begins_alike_in_both_tiers() {
    boots_alike(Kernel::Amd64);
}

#[test]
fn i386_begins_alike_in_both_tiers() {
    boots_alike(Kernel::Pae);
}

#[test]
fn two_processors_are_refused() {
    let place = Place::new();
    let why = place.bad("run -b $K -p 2 --engine translate:lockstep");
    assert!(why.contains("2 vCPUs in step with the interpreter"), "{why}");
}
