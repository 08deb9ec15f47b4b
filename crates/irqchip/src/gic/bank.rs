//! The state of 32 interrupts: of one word of each of the distributor's bit registers.

/// Bit n is interrupt n's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bank {
    pub enabled: u32,
    /// Pending by an edge, an SGI or ISPENDR.
    pub latch: u32,
    /// The input's level.
    pub line: u32,
    /// Active, and in no list register.
    pub active: u32,
    /// Edge-triggered; else level-sensitive.
    pub edge: u32,
    pub group1: u32,
    /// In a list register of a vCPU that runs.
    pub held: u32,
    /// Of those: went there with the latch, which comes back if it isn't acknowledged.
    pub carried: u32,
    /// Of those: was active when it went there.
    pub held_active: u32,
    /// Of those: the guest deactivated it by a register since; what the list register says of that is out of date.
    pub dropped: u32,
    pub priority: [u8; 32],
}

impl Bank {
    pub const fn new(enabled: u32, edge: u32, group1: u32) -> Self {
        Self {
            enabled,
            latch: 0,
            line: 0,
            active: 0,
            edge,
            group1,
            held: 0,
            carried: 0,
            held_active: 0,
            dropped: 0,
            priority: [0; 32],
        }
    }

    /// Pending here. Of those in list registers: what goes there next.
    pub fn pending(&self) -> u32 {
        self.latch | self.line & !self.edge
    }

    /// Enabled, with their group (`enable` is GICD_CTLR).
    pub fn forwarded(&self, enable: u32) -> u32 {
        let group0 = if enable & 1 != 0 { !self.group1 } else { 0 };
        let group1 = if enable & 2 != 0 { self.group1 } else { 0 };
        self.enabled & (group0 | group1)
    }

    /// What a list register could be for: active, or to be delivered to whoever is their target.
    pub fn waiting(&self, enable: u32) -> u32 {
        let here = (self.pending() | self.active) & !self.held;
        if here == 0 { 0 } else { here & (self.forwarded(enable) | self.active) }
    }

    /// Gives inputs a level, and says whether that was news.
    pub fn input(&mut self, mask: u32, level: bool) -> bool {
        let before = self.line;
        self.line = if level { before | mask } else { before & !mask };
        self.latch |= self.line & !before & self.edge;
        self.line != before
    }

    /// ICACTIVER, or an end of interrupt.
    pub fn deactivate(&mut self, mask: u32) {
        self.active &= !mask;
        self.held_active &= !mask;
        self.dropped |= mask & self.held;
    }
}
