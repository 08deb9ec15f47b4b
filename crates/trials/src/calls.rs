//! The control domain's root against the hypervisor's calls: every call with arguments from its edges and from nowhere, bodies of
//! rubbish, machines that run rubbish, pages that change while they are read, and doorbell stores of what is no call page.
//!
//! What root may do anyway is left out: giving machines memory that isn't this process's, which is as good as writing it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine_native::host::{doorbell::Doorbell, pagemap::Pagemap, pin::Pins, tree};
use engine_native::page::Page;
use hypercall::{Call, GuestMode, MAX_FRAMES, Registers, Status};
use memory::mapping::Mapping;

use crate::random::Random;

/// Pages of this process that calls lie in, and others that machines are given.
const CALL_PAGES: usize = 2;
const PAGES: usize = 64;

pub fn attack(seconds: u64, seed: u64) -> Result<()> {
    let address = tree::doorbell(Path::new(tree::TREE)).map_err(anyhow::Error::msg)?;
    let doorbell = Doorbell::map(address).context("could not map the doorbell")?;
    let pins = Pins::new()?;
    let mapping = Arc::new(Mapping::new("trial", (PAGES * 4096) as u64)?);
    // SAFETY: the mapping lives as long as the program does; nothing maps over it.
    unsafe { pins.pin(&[(mapping.host(), mapping.len())])? };
    let frames = Pagemap::open()?.frames(mapping.host(), mapping.len())?;
    let page = |n: usize| Page::new(&mapping, n, frames[n] >> 12).context("no call page");
    let pages = [page(0)?, page(1)?];
    let mut trial = Trial {
        random: Random::new(seed),
        given: frames[CALL_PAGES..].to_vec(),
        handles: Vec::new(),
        done: [0; 8],
    };
    // Before anybody has given them registers.
    for mode in GuestMode::ALL {
        pages[0].set_call(Call::CreateVm as u32, &[*mode as u64, 1, 0x800_0000, 0x80a_0000]);
        doorbell.ring(pages[0].frame() as u32);
        if pages[0].result() == Status::Done as i32 {
            pages[0].set_call(Call::Run as u32, &[pages[0].results(0), 0]);
            doorbell.ring(pages[0].frame() as u32);
        }
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Changes the second page all the while.
        scope.spawn(|| {
            let mut random = Random::new(seed ^ 1);
            while !over.load(Ordering::Relaxed) {
                pages[1].set_body((0..MAX_FRAMES as u64).map(|_| random.next()).take(8));
                pages[1].set_immediate_exit(random.next() & 1 != 0);
                std::thread::yield_now();
            }
        });
        let result: Result<()> = (|| {
            while Instant::now() < end {
                trial.call(&doorbell, &pages)?;
            }
            Ok(())
        })();
        over.store(true, Ordering::Relaxed);
        result
    })?;
    pages[0].set_call(Call::DestroyAll as u32, &[]);
    doorbell.ring(pages[0].frame() as u32);
    let refused = not_call_pages(&mut trial.random)?;
    println!(
        "calls by status, 0 to -6, and runs: {:?}; all machines destroyed: {}",
        trial.done,
        pages[0].result() == 0
    );
    println!("stores to the doorbell that were refused: {refused}");
    if pages[0].result() != Status::Done as i32 {
        bail!("machines could not be destroyed: status {}", pages[0].result());
    }
    Ok(())
}

struct Trial {
    random: Random,
    given: Vec<u64>,
    handles: Vec<u64>,
    /// Calls by their status, and runs that were done.
    done: [u64; 8],
}

impl Trial {
    fn call(&mut self, doorbell: &Doorbell, pages: &[Page; CALL_PAGES]) -> Result<()> {
        let page = &pages[self.random.below(CALL_PAGES as u64) as usize];
        let number = match self.random.below(16) {
            0 => self.random.next() as u32,
            1..=4 => Call::Run as u32,
            n => (n % Call::ALL.len() as u64) as u32,
        };
        // Once in a while only, or no machine would live.
        let number = if number == Call::DestroyAll as u32 && self.random.below(64) != 0 { 2 } else { number };
        let mut arguments = [0; 6].map(|_: u64| self.argument());
        let call = Call::from_number(number);
        if call.is_some_and(|c| c != Call::CreateVm) && self.random.below(8) != 0 && !self.handles.is_empty()
        {
            arguments[0] = self.random.one_of(&self.handles);
            arguments[1] = if call == Some(Call::AddMemory) { self.place() } else { self.random.below(4) };
        }
        if call == Some(Call::CreateVm) && self.random.below(4) != 0 {
            arguments = [self.random.below(2), 1 + self.random.below(8), 0x800_0000, 0x80a_0000, 0, 0];
        }
        if call == Some(Call::AddMemory) {
            arguments[2] = self.random.one_of(&[1, 4, 60, MAX_FRAMES as u64]);
            arguments[3] = self.random.one_of(&[12, 12, 12, 21, 13]);
            arguments[4] = self.random.below(2);
        }
        page.set_call(number, &arguments);
        let body: Vec<u64> = (0..MAX_FRAMES).map(|_| self.word(call)).collect();
        page.set_body(body.into_iter());
        page.answer(self.random.next());
        doorbell.ring(page.frame() as u32);
        let status = page.result();
        // The other thread writes bodies only.
        let Some(known) = Status::from_number(status) else {
            bail!("call {number} ended with status {status}")
        };
        self.done[-(known as i32) as usize] += 1;
        if known == Status::Done {
            match call {
                Some(Call::CreateVm) => self.handles.push(page.results(0)),
                Some(Call::DestroyAll) => self.handles.clear(),
                Some(Call::Run) => self.done[7] += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn argument(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.next(),
            1 => self.random.below(16),
            2 => 1 << self.random.below(64),
            _ => self.random.one_of(&[
                0,
                u64::MAX,
                1 << 40,
                (1 << 40) - 1,
                0x800_0000,
                0x4000_0000,
                1019,
                1020,
                32,
            ]),
        }
    }

    /// A guest-physical address.
    fn place(&mut self) -> u64 {
        let near = self.random.below(128) << 12;
        self.random.one_of(&[near, near, 0x4000_0000 + near, u64::MAX - 0xfff, (1 << 40) - 4096, near + 1])
    }

    /// A word of a call's body: frames of this process's, or that are no memory of the control domain's at all; registers that often lead
    /// to where a machine has memory.
    fn word(&mut self, call: Option<Call>) -> u64 {
        if call != Some(Call::AddMemory) {
            let near = self.random.below(128) << 12;
            return if self.random.below(3) == 0 { near } else { self.random.next() };
        }
        let given = self.random.one_of(&self.given.clone());
        let device = self.random.below(0x4000) << 12;
        self.random.one_of(&[given, given, given, given, device, given + 1, u64::MAX & !0xfff, 1 << 45])
    }
}

const _: () = assert!(size_of::<Registers>() <= MAX_FRAMES * 8);

/// Stores to the doorbell of what is not the control domain's memory; each in a process of its own, which the refusal ends. Gives how many.
fn not_call_pages(random: &mut Random) -> Result<u64> {
    let mut refused = 0;
    for n in 0..16u64 {
        // Below the RAM of QEMU's boards, and above all that there can be.
        let frame = if n % 2 == 0 { random.below(0x3_0000) } else { 0xf000_0000 + random.below(0xfff_ffff) };
        let status = Command::new(std::env::current_exe()?).args(["ring", &frame.to_string()]).status()?;
        refused += u64::from(!status.success());
    }
    if refused != 16 {
        bail!("only {refused} of 16 stores to the doorbell were refused");
    }
    Ok(refused)
}

pub fn ring(frame: u64) -> Result<()> {
    let address = tree::doorbell(Path::new(tree::TREE)).map_err(anyhow::Error::msg)?;
    Doorbell::map(address)?.ring(frame as u32);
    Ok(())
}
