//! A look at where a block's edges go: most code sets the status flags before it reads any, so they need not be saved there.
//!
//! Flags are left unsaved only where the target is on the block's page, in granules that were announced as code when its
//! bytes were read: whatever changes them moves the page's generation on, as changing the block itself does. Then
//!
//! - a jump is led to its target only if the same token stands for both, which is a generation's own, so what it goes to
//!   unsaved is what was looked at, even where another vCPU changes the page while this one still executes the old code, as it may until it is told;
//! - a jump that is not led anywhere yet, and one that leaves because something is pending, saves them on its way out;
//! - a store to the page by this vCPU ends the chain at the store, in the block itself, where they are saved.
//!
//! So flags are found unsaved only in a fault at one of the target's instructions before they are set (or in a store of its
//! own that changes what follows it), as within a block. Nothing of the code that is there reads them.

use super::compile::Compiler;
use super::flags::{Flags, effect};
use super::forms;
use super::tails::Tail;
use crate::vendor;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use memory::tracking::granules;

/// Instructions looked at, and bytes from where a jump leads.
const INSTRUCTIONS: usize = 11;
const BYTES: usize = 64;

/// The page of a block, as far as edges may rely on it.
#[derive(Default)]
pub struct Page {
    /// Its bytes; none if nothing may be relied on.
    pub bytes: Vec<u8>,
    /// The granules that were announced before they were read.
    pub announced: u64,
}

/// Where the flags of a jump are whose target does not read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaved {
    /// They are saved.
    No,
    Native,
    /// In AH and AL, as `lahf` and `seto` left them.
    Loaded,
}

impl Compiler<'_> {
    /// Makes [`crate::cpu::Cpu::status`] good for what is at `delta` from the page, if it matters there.
    pub fn save_flags_for(&mut self, delta: i32) {
        if self.flags == Flags::Native && !self.flags_dead_at(delta) {
            self.save_flags();
        }
    }

    /// Whether what is at `delta` from the page sets all status flags before it reads any.
    pub fn flags_dead_at(&self, delta: i32) -> bool {
        let Some((mut bytes, mut decoder)) = self.decoder_at(delta) else { return false };
        let (mut i, mut wanted, mut mask) = (Instruction::default(), forms::STATUS, 0);
        for _ in 0..INSTRUCTIONS {
            vendor::decode(&mut decoder, bytes, &mut i);
            if i.is_invalid() {
                return false;
            }
            mask |= granules(i.ip().wrapping_sub(self.page), i.len() as u64);
            if i.is_jmp_short_or_near() {
                let Some(there) = self.delta(&i).and_then(|to| self.decoder_at(to)) else { return false };
                (bytes, decoder) = there;
                continue;
            }
            let (read, set) = effect(&i);
            if read & wanted != 0 || i.flow_control() != FlowControl::Next {
                return false;
            }
            wanted &= !set;
            if wanted == 0 {
                return self.page_ahead.announced & mask == mask;
            }
        }
        false
    }

    /// What is at `delta` from the page, if edges may rely on it: the bytes, and what decodes them.
    fn decoder_at(&self, delta: i32) -> Option<(&[u8], Decoder<'_>)> {
        let bytes = self.page_ahead.bytes.get(usize::try_from(delta).ok()?..)?;
        let bytes = self.on_page(delta).then(|| &bytes[..bytes.len().min(BYTES)])?;
        let ip = self.page.wrapping_add(delta as u64);
        Some((bytes, Decoder::with_ip(self.mode.bits(), bytes, ip, DecoderOptions::NONE)))
    }

    /// In the tail of a jump: makes [`crate::cpu::Cpu::status`] good.
    pub fn save_unsaved(&mut self, unsaved: Unsaved) {
        if unsaved == Unsaved::Native {
            self.load_flags();
        }
        if unsaved != Unsaved::No {
            self.store_loaded_flags();
        }
    }

    /// Goes to `delta` from the page at the end of the block on a condition of its flags, and to `next` otherwise.
    pub fn branch(&mut self, condition: u8, delta: i32, next: i32) {
        // A loop goes straight on, to its beginning.
        let (condition, first, second) =
            if self.back(delta) { (condition ^ 1, delta, next) } else { (condition, next, delta) };
        if self.flags == Flags::Native && !self.flags_dead_at(second) {
            let from = self.a.label();
            self.a.jump_if(condition, from);
            self.tails.push(Tail::Away { from, delta: second, flags: Flags::Native });
        } else {
            self.edge_if(condition, second);
        }
        self.save_flags_for(first);
        self.edge(first);
    }
}
