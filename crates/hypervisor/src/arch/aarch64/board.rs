//! What of the board's interrupt controller guests are run with: its virtual interface, private interrupts, and how processors are kicked.

use core::sync::atomic::Ordering::Relaxed;

use address::HostPhys;
use spin::Once;

use super::vgic::Vgic;
use crate::cpu_interface::{PrivateInterrupts, VIRTUAL_TIMER};
use crate::per_cpu::CPUS;
use crate::platform::Gic;
use crate::pool::Pool;
use crate::table::{MapError, Table};

/// The software-generated interrupt that kicks a processor out of a guest. Linux has no use for the last of those that are never the
/// firmware's. It is taken back before the control domain could see it.
const KICK: u32 = 7;
/// GICD_SGIR, GICD_ITARGETSR0, GICD_CPENDSGIR1; GICR_ICPENDR0.
const SGIR: u64 = 0xf00;
const ITARGETSR0: u64 = 0x800;
const CPENDSGIR1: u64 = 0xf14;
const ICPENDR0: u64 = 0x280;

struct Board {
    gic: Gic,
    vgic: Vgic,
}

static BOARD: Once<Board> = Once::new();

/// What the board has, once, when EL2's own tables map it.
pub fn prepare_guests(gic: &Gic) {
    if let Some(vgic) = Vgic::new(gic) {
        BOARD.call_once(|| Board { gic: gic.clone(), vgic });
    }
}

/// Of each processor that starts, before any guest is on it.
pub fn start_guest_cpu() {
    let (Some(board), Some(cpu)) = (BOARD.get(), super::this_cpu()) else { return };
    let Some(private) = board.vgic.start_cpu(&board.gic, super::affinity()) else { return };
    if let Vgic::V2(_) = board.vgic {
        let targets = super::read32(HostPhys(private.0.0 + ITARGETSR0));
        cpu.target.store(targets & 0xff, Relaxed);
    }
    cpu.private_interrupts.store(private.0.0, Relaxed);
}

/// This processor's, and the board's virtual interface. `None` where guests can't be run.
pub fn interrupts() -> Option<(&'static Vgic, PrivateInterrupts)> {
    let private = super::this_cpu()?.private_interrupts.load(Relaxed);
    (private != 0).then_some((&BOARD.get()?.vgic, PrivateInterrupts(HostPhys(private))))
}

/// Lets what guests are left for through to this processor.
pub fn enable(private: PrivateInterrupts) {
    private.enable(VIRTUAL_TIMER);
    private.enable(KICK);
}

/// Has another processor leave its guest.
pub fn kick_cpu(cpu: usize) {
    let (Some(board), Some(cpu)) = (BOARD.get(), CPUS.get(cpu)) else { return };
    if let Vgic::V2(_) = board.vgic {
        let Some(gicd) = board.gic.frames.first() else { return };
        return super::write32(HostPhys(gicd.start + SGIR), cpu.target.load(Relaxed) << 16 | KICK);
    }
    let affinity = cpu.affinity.load(Relaxed);
    let field = |shift: u32| affinity >> shift & 0xff;
    let range = field(0) >> 4;
    set_register!(
        "s3_0_c12_c11_5", // ICC_SGI1R_EL1
        field(32) << 48
            | range << 44
            | field(16) << 32
            | (KICK as u64) << 24
            | field(8) << 16
            | 1 << (field(0) & 15)
    );
    super::isb();
}

/// Takes a kick back, if there was one.
pub fn take_kick(private: PrivateInterrupts) -> bool {
    let kicked = private.is_pending(KICK);
    if kicked {
        match BOARD.get().map(|b| &b.vgic) {
            Some(Vgic::V2(_)) => super::write32(HostPhys(private.0.0 + CPENDSGIR1), 0xff << 24),
            _ => super::write32(HostPhys(private.0.0 + ICPENDR0), 1 << KICK),
        }
    }
    kicked
}

/// Maps the CPU interface of a guest's GIC, where it is in memory: the physical GICV.
pub fn map_interface(pool: &Pool, table: &Table, at: u64) -> Result<(), MapError> {
    use arm::descriptor::stage2::{DEVICE, EXECUTE_NEVER, READ, WRITE};
    let Some(Board { gic: Gic { version: 2, virtualization: Some((_, gicv)), .. }, .. }) = BOARD.get() else {
        return Ok(());
    };
    table.map(pool, at, gicv.address(), gicv.size().min(0x2000), DEVICE | READ | WRITE | EXECUTE_NEVER)
}
