//! Timer interrupts by the hundred thousand: a thread on each processor computes and is interrupted by a timer that fires again and
//! again, while another writes and reads a disk, if there is one, and the console.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Between two interrupts: 5,000 a second.
const PERIOD: Duration = Duration::from_micros(200);

/// Goes on until each processor has taken `count`; says how far it is every ten seconds, and what was seen at the end.
pub fn take(count: u64) -> Result<()> {
    let first = timer_interrupts()?;
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let taken = || -> Result<Vec<u64>> {
        Ok(timer_interrupts()?.iter().zip(&first).map(|(now, then)| now - then).collect())
    };
    let sectors = std::thread::scope(|scope| -> Result<u64> {
        for cpu in 0..first.len() {
            let over = &over;
            scope.spawn(move || interrupted(cpu, over));
        }
        let disk = scope.spawn(|| disk(&over));
        let result: Result<()> = (|| {
            loop {
                std::thread::sleep(Duration::from_secs(10));
                let taken = taken()?;
                println!("interrupts {taken:?} after {} s", start.elapsed().as_secs());
                if taken.iter().all(|taken| *taken >= count) {
                    return Ok(());
                }
            }
        })();
        over.store(true, Ordering::Relaxed);
        let sectors = disk.join().unwrap_or(Ok(0))?;
        result.map(|()| sectors)
    })?;
    println!(
        "took {:?} timer interrupts in {} s, and {sectors} times 64 KiB of the disk",
        taken()?,
        start.elapsed().as_secs()
    );
    Ok(())
}

/// What /proc/interrupts counts of the architected timer on each processor.
fn timer_interrupts() -> Result<Vec<u64>> {
    let text = std::fs::read_to_string("/proc/interrupts").context("could not read /proc/interrupts")?;
    let line = text.lines().find(|line| line.contains("arch_timer")).context("no architected timer there")?;
    Ok(line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect())
}

/// Computes on one processor while a timer of this thread's fires there.
fn interrupted(cpu: usize, over: &AtomicBool) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    let every = Timespec { tv_sec: 0, tv_nsec: PERIOD.as_nanos() as _ };
    let set = || -> rustix::io::Result<rustix::fd::OwnedFd> {
        sched_setaffinity(None, &cpus)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: every, it_value: every },
        )?;
        Ok(timer)
    };
    let Ok(timer) = set() else { return println!("no timer on processor {cpu}") };
    let mut sum = 0u64;
    while !over.load(Ordering::Relaxed) {
        for n in 0..2_000u64 {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(n));
        }
        // Until it has been read, it doesn't fire again. Nothing to read yet is no error here.
        let _ = rustix::io::read(&timer, &mut [0u8; 8]);
    }
    std::hint::black_box(sum);
}

/// Writes what it can tell again to the disk's first MiB, and reads it back. Gives how often.
fn disk(over: &AtomicBool) -> Result<u64> {
    let Ok(mut disk) = File::options().read(true).write(true).open("/dev/vda") else { return Ok(0) };
    let (mut block, mut read, mut rounds) = (vec![0u8; 64 << 10], vec![0u8; 64 << 10], 0u64);
    while !over.load(Ordering::Relaxed) {
        block.fill(rounds as u8);
        let at = SeekFrom::Start(rounds % 16 * block.len() as u64);
        disk.seek(at)?;
        disk.write_all(&block)?;
        disk.sync_all()?;
        disk.seek(at)?;
        disk.read_exact(&mut read)?;
        anyhow::ensure!(read == block, "the disk has something else than was written");
        rounds += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(rounds)
}
