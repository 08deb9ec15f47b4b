//! Which blocks are translated together: from a hot one on, those that it goes on to most, as far as they lie one behind
//! the other on its page. What they share is looked up once, and flags are saved only where a branch goes elsewhere.

use crate::block::Block;
use crate::cpu::Cpu;
use crate::op::Flow;
use address::{GuestPhys, PAGE_SIZE};
use iced_x86::{Decoder, DecoderOptions};

/// Blocks, and their instructions in all, at most.
const BLOCKS: usize = 8;
const OPS: usize = 96;

impl Cpu {
    /// The blocks to be translated with `head`, that first. All are valid as long as `head` is, and in its segment of the cache.
    pub(super) fn trace<'a>(&self, head: &'a Block) -> Vec<&'a Block> {
        let mut blocks = vec![head];
        let mut ops = head.ops.len();
        if head.pages[0] != head.pages[1] {
            return blocks;
        }
        while blocks.len() < BLOCKS
            && let Some(next) = blocks.last().and_then(|last| self.gone_on_to(last))
        {
            let key = (head.pages[0] << 12 | next as u64, head.key.1);
            let Some(known) = self.shared.code.find(key) else { break };
            // SAFETY: what was found is there until this vCPU passes, as `head` is.
            let known: &'a Block = unsafe { &*known };
            let fits = known.pages == head.pages
                && known.segment == head.segment
                && known.generations()[0] == head.generations()[0]
                && known.translation.possible()
                && self.in_code_room(head, known);
            ops += known.ops.len();
            if !fits || ops > OPS {
                break;
            }
            blocks.push(known);
        }
        blocks
    }

    /// Whether all of a block lies within CS's limit, where `head` is at RIP.
    fn in_code_room(&self, head: &Block, block: &Block) -> bool {
        let rip = self.regs[crate::cpu::RIP].wrapping_add(block.key.0 - head.key.0) & self.mode.rip_mask();
        block.len as u64 <= self.code_room(rip)
    }

    /// The offset in the page of what a block goes on to most, if that is behind it on the page.
    fn gone_on_to(&self, block: &Block) -> Option<u32> {
        let at = (block.key.0 % PAGE_SIZE) as u32;
        let behind = at + block.len;
        let last = block.ops.last()?;
        let next = match last.flow {
            Flow::Next => behind,
            Flow::EndNext => return None,
            Flow::EndSet => {
                let mut bytes = [0; 15];
                let bytes = &mut bytes[..last.len as usize];
                self.shared.memory.read(GuestPhys(block.key.0 + last.offset as u64), bytes).ok()?;
                let ip = (at + last.offset as u32) as u64;
                let i = Decoder::with_ip(self.mode.bits(), bytes, ip, DecoderOptions::NONE).decode();
                let target = u32::try_from(i.near_branch_target()).ok();
                match () {
                    _ if i.is_jmp_short_or_near() => target?,
                    _ if i.is_jcc_short_or_near() => {
                        block.went_to().filter(|to| *to == behind || Some(*to) == target)?
                    }
                    _ => return None,
                }
            }
        };
        (next > at && next < PAGE_SIZE as u32).then_some(next)
    }
}
