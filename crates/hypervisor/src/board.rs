//! What of the board's interrupt controller guests are run with: its virtual interface, private interrupts, and how processors are kicked.

use core::sync::atomic::Ordering::Relaxed;

use address::HostPhys;
use spin::Once;

use crate::arch;
use crate::arch::vgic::{Interface, Vgic};
use crate::cpu_interface::{KICK, PrivateInterrupts, VIRTUAL_TIMER, VirtualInterface};
use crate::per_cpu::CPUS;
use crate::platform::Gic;
use crate::pool::Pool;
use crate::table::{self, Table};

struct Board {
    gic: Gic,
    vgic: Vgic,
}

static BOARD: Once<Board> = Once::new();

/// What the board has, once, when the hypervisor's own tables map it.
pub fn prepare_guests(gic: &Gic) {
    if let Some(vgic) = Vgic::new(gic) {
        BOARD.call_once(|| Board { gic: gic.clone(), vgic });
    }
}

/// Of each processor that starts, before any guest is on it.
pub fn start_guest_cpu() {
    let (Some(board), Some(cpu)) = (BOARD.get(), arch::this_cpu()) else { return };
    if let Some(private) = board.vgic.interface().start_cpu(&board.gic, cpu) {
        cpu.private_interrupts.store(private.0.0, Relaxed);
    }
}

/// This processor's, and the board's virtual interface. `None` where guests can't be run.
pub fn interrupts() -> Option<(&'static Interface, PrivateInterrupts)> {
    let private = arch::this_cpu()?.private_interrupts.load(Relaxed);
    (private != 0).then_some((BOARD.get()?.vgic.interface(), PrivateInterrupts(HostPhys(private))))
}

/// Lets what guests are left for through to this processor.
pub fn enable(private: PrivateInterrupts) {
    private.enable(VIRTUAL_TIMER);
    private.enable(KICK);
}

/// Has another processor leave its guest.
pub fn kick_cpu(cpu: usize) {
    if let (Some(board), Some(cpu)) = (BOARD.get(), CPUS.get(cpu)) {
        board.vgic.interface().kick(cpu);
    }
}

/// Takes a kick back, if there was one, before the control domain could see it.
pub fn take_kick(vgic: &(impl VirtualInterface + ?Sized), private: PrivateInterrupts) -> bool {
    let kicked = private.is_pending(KICK);
    if kicked {
        vgic.take_kick(private);
    }
    kicked
}

/// Maps the CPU interface of a guest's GIC, where it is in memory: the physical GICV.
pub fn map_interface(pool: &Pool, table: &Table, at: u64) -> table::Result<()> {
    use arm::descriptor::stage2::{DEVICE, EXECUTE_NEVER, READ, WRITE};
    let Some(Board { gic: Gic { version: 2, virtualization: Some((_, gicv)), .. }, .. }) = BOARD.get() else {
        return Ok(());
    };
    table.map(pool, at, gicv.address(), gicv.size().min(0x2000), DEVICE | READ | WRITE | EXECUTE_NEVER)
}
