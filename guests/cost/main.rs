//! The guest of `cargo xtask bench native-arm`: does what a hypervisor has to answer again and again, and says how long each took by the
//! virtual counter. Where instructions are the clock (QEMU's `-icount`), that is how many instructions it took.
#![no_std]
#![no_main]

use core::arch::global_asm;

#[cfg(target_arch = "aarch64")]
global_asm!(include_str!("aarch64.s"), options(raw));
#[cfg(target_arch = "arm")]
global_asm!(include_str!("armv7.s"), options(raw));

/// What xtask writes into the image, behind its header.
#[repr(C)]
struct Parameters {
    /// A PL011.
    uart: u64,
    /// The version of the interrupt controller.
    gic: u64,
    distributor: u64,
    /// GICv2's CPU interface; GICv3's redistributor.
    interface: u64,
    /// A register that a program answers for, or 0.
    device: u64,
}

unsafe extern "C" {
    fn empty_loop(count: usize) -> usize;
    fn null_call(count: usize) -> usize;
    fn trapped_register(count: usize) -> usize;
    fn read_word(count: usize, address: usize) -> usize;
    fn self_interrupt(count: usize, interface: usize, same: usize, distributor: usize) -> usize;
    fn timer_interrupt(count: usize, interface: usize, same: usize) -> usize;
    fn start_system_registers();
    fn power_off() -> !;
}

/// How often each is done at a time: not for so long that the host's own timer comes in most times.
const COUNT: usize = 64;
/// How many times that is measured.
const TIMES: usize = 32;

/// What each of [`TIMES`] times [`COUNT`] of something took.
type Ticks = [usize; TIMES];

#[unsafe(no_mangle)]
extern "C" fn main(p: &Parameters) -> ! {
    start_interrupts(p);
    let interface = if p.gic == 2 { p.interface as usize } else { 0 };
    let distributor = p.distributor as usize;
    // All is measured before the first word is said: whoever prints it may be at it for a while.
    // SAFETY: the loops keep to the procedure call standard, the addresses are devices', and vectors are set.
    let (nothing, call, register, typer, device, ipi, timer) = unsafe {
        (
            times(|| empty_loop(COUNT)),
            times(|| null_call(COUNT)),
            times(|| trapped_register(COUNT)),
            // GICD_TYPER.
            times(|| read_word(COUNT, distributor + 4)),
            if p.device != 0 { Some(times(|| read_word(COUNT, p.device as usize))) } else { None },
            times(|| self_interrupt(COUNT, interface, COUNT, distributor)),
            times(|| timer_interrupt(COUNT, interface, COUNT)),
        )
    };
    let console = Console(p.uart);
    console.say("\ncost frequency ");
    console.number(frequency());
    // One by one: a table of names would be addresses, which nobody relocates.
    console.tell("nothing", &nothing);
    console.tell("call", &call);
    console.tell("register", &register);
    console.tell("distributor", &typer);
    if let Some(device) = &device {
        console.tell("device", device);
    }
    console.tell("ipi", &ipi);
    console.tell("timer", &timer);
    console.say("\ncost end\n");
    // SAFETY: there is nothing left to do.
    unsafe { power_off() }
}

fn times(mut once: impl FnMut() -> usize) -> Ticks {
    let mut ticks = [0; TIMES];
    ticks.iter_mut().for_each(|ticks| *ticks = once());
    ticks
}

/// SGI 0 and the virtual timer's PPI 27, in a GIC of either version.
fn start_interrupts(p: &Parameters) {
    const WANTED: u32 = 1 << 27 | 1;
    if p.gic == 2 {
        write(p.distributor, 1);
        write(p.distributor + 0x100, WANTED);
        write(p.interface + 4, 0xff);
        write(p.interface, 1);
        return;
    }
    // GICD_CTLR: affinity routing, both groups.
    write(p.distributor, 0x13);
    // GICR_WAKER, then GICR_IGROUPR0 and GICR_ISENABLER0.
    write(p.interface + 0x14, 0);
    write(p.interface + 0x1_0080, !0);
    write(p.interface + 0x1_0100, WANTED);
    // SAFETY: a GICv3 has these registers.
    unsafe { start_system_registers() }
}

fn write(address: u64, value: u32) {
    // SAFETY: the addresses are device registers of the machine's, and no Rust object's.
    unsafe { (address as usize as *mut u32).write_volatile(value) }
}

fn read(address: u64) -> u32 {
    // SAFETY: as for writing.
    unsafe { (address as usize as *const u32).read_volatile() }
}

/// Ticks of the counter in a second.
fn frequency() -> usize {
    let ticks: usize;
    // SAFETY: reads a register without side effects.
    unsafe {
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("mrs {}, cntfrq_el0", out(reg) ticks, options(nomem, nostack));
        #[cfg(target_arch = "arm")]
        core::arch::asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) ticks, options(nomem, nostack));
    }
    ticks
}

/// Where to say it: a PL011's address.
struct Console(u64);

impl Console {
    fn byte(&self, byte: u8) {
        // UARTFR.TXFF: no room.
        while read(self.0 + 0x18) & 1 << 5 != 0 {}
        write(self.0, byte.into());
    }

    fn say(&self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
    }

    /// In hexadecimal: there is nothing here to divide with.
    fn number(&self, number: usize) {
        for shift in (0..usize::BITS).step_by(4).rev() {
            let digit = (number >> shift & 0xf) as u8;
            self.byte(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }

    fn tell(&self, name: &str, ticks: &Ticks) {
        for ticks in ticks {
            self.say("\ncost ");
            self.say(name);
            self.say(" ");
            self.number(COUNT);
            self.say(" ");
            self.number(*ticks);
        }
    }
}

/// An exception that nobody expected: what the processor says of it, and the end.
#[unsafe(no_mangle)]
extern "C" fn fault(syndrome: usize, at: usize, address: usize, p: &Parameters) -> ! {
    let console = Console(p.uart);
    console.say("\ncost fault ");
    [syndrome, at, address].into_iter().for_each(|word| {
        console.number(word);
        console.say(" ");
    });
    console.say("\ncost end\n");
    // SAFETY: there is nothing left to do.
    unsafe { power_off() }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: as above.
    unsafe { power_off() }
}
