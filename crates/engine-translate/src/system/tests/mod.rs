//! System instructions and events, step by step, on small vCPUs whose tables the tests write.

mod control;
mod long;
mod protected;
mod real;
mod tasks;

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::testing::*;
use x86::{Exception, Vector};

/// Where the tests' tables lie.
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
/// Selectors of the tests' GDT.
const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const TSS_SELECTOR: u16 = 0x28;
const CODE0_LONG: u16 = 0x38;
const CODE3_LONG: u16 = 0x43;
const CONFORMING: u16 = 0x48;
const ABSENT: u16 = 0x50;
/// The first selector that tests define themselves.
const FREE: u16 = 0x80;

fn poke64(cpu: &Cpu, at: u64, value: u64) {
    poke(cpu, at, &value.to_le_bytes());
}
fn peek64(cpu: &Cpu, at: u64) -> u64 {
    u64::from_le_bytes(peek(cpu, at, 8).try_into().unwrap())
}
fn peek32(cpu: &Cpu, at: u64) -> u32 {
    peek64(cpu, at) as u32
}

/// Flat segments of both rings, a TSS, and room.
fn tables(cpu: &mut Cpu) {
    let entries: [u64; 11] = [
        0,
        0x00cf_9a00_0000_ffff,
        0x00cf_9200_0000_ffff,
        0x00cf_fa00_0000_ffff,
        0x00cf_f200_0000_ffff,
        0x0000_8900_6000_0067,
        0,
        0x00af_9a00_0000_ffff,
        0x00af_fa00_0000_ffff,
        0x00cf_9e00_0000_ffff,
        0x00cf_1a00_0000_ffff,
    ];
    for (i, e) in entries.iter().enumerate() {
        poke64(cpu, GDT + 8 * i as u64, *e);
    }
    cpu.gdtr = x86::segment::Table { base: GDT, limit: 0x1ff };
    cpu.idtr = x86::segment::Table { base: IDT, limit: 0x7ff };
    cpu.tr =
        x86::Segment { selector: TSS_SELECTOR, base: TSS, limit: 0x67, attributes: 0x8b, unusable: false };
}

/// Steps once and gives the exception.
fn fault(cpu: &mut Cpu) -> Exception {
    match step(cpu) {
        Err(Fault::Exception(e)) => e,
        other => panic!("no exception but {other:?}"),
    }
}

fn gp(code: u32) -> Exception {
    Exception::gp(code)
}
fn with(vector: Vector, code: u32) -> Exception {
    Exception::with_code(vector, code)
}
