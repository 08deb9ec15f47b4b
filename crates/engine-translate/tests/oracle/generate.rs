//! Random sequences.

use crate::catalogue::{Class, codes};
use crate::rng::Rng;
use crate::state::{Registers, place};
use crate::values::{data, registers, scalar};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, InstructionInfoFactory,
    MandatoryPrefix, Mnemonic, OpAccess, OpCodeOperandKind as Kind, OpCodeTableKind, OpKind, Register,
};

/// One instruction of a sequence.
#[derive(Clone)]
pub struct Item {
    pub instruction: Instruction,
    /// Its bytes, where they need not be made for the place it has.
    pub bytes: Option<Vec<u8>>,
    /// Branches: how many items behind it the target is.
    pub skip: Option<usize>,
}

/// A sequence, and what it starts from.
#[derive(Clone)]
pub struct Sequence {
    pub bits: u32,
    pub items: Vec<Item>,
    pub start: Registers,
    pub data: Vec<u8>,
}

const RAX: usize = 0;
const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

impl Sequence {
    /// The bytes, without what ends them. `None` if something can't be encoded where it is.
    pub fn assemble(&self, at: u64) -> Option<Vec<u8>> {
        let mut places = vec![at];
        for item in &self.items {
            let len = item.encode(self.bits, *places.last()?, None)?.len() as u64;
            places.push(places.last()? + len);
        }
        let mut code = Vec::new();
        for (n, item) in self.items.iter().enumerate() {
            let target = item.skip.map(|k| places[(n + 1 + k).min(self.items.len())]);
            let bytes = item.encode(self.bits, places[n], target)?;
            if bytes.len() as u64 != places[n + 1] - places[n] {
                return None;
            }
            code.extend(bytes);
        }
        Some(code)
    }
}

impl Item {
    fn encode(&self, bits: u32, at: u64, target: Option<u64>) -> Option<Vec<u8>> {
        if let Some(b) = &self.bytes {
            return Some(b.clone());
        }
        let mut i = self.instruction;
        if self.skip.is_some() {
            let target = target.unwrap_or(at + 16);
            if bits == 64 { i.set_near_branch64(target) } else { i.set_near_branch32(target as u32) }
        }
        let mut encoder = Encoder::new(bits);
        encoder.encode(&i, at).ok()?;
        Some(encoder.take_buffer())
    }
}

/// Makes sequences of one class of instructions.
pub struct Generator {
    pub bits: u32,
    codes: Vec<Code>,
    base: u64,
    factory: InstructionInfoFactory,
}

/// What a sequence keeps as it is, so that its addresses stay within the window.
struct Plan {
    pointer: usize,
    index: usize,
    strings: bool,
    gpr: [u64; 16],
}

impl Generator {
    pub fn new(class: Class, bits: u32, base: u64) -> Self {
        Self { bits, codes: codes(class, bits), base, factory: InstructionInfoFactory::new() }
    }
    pub fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// A sequence whose first instruction is `code`, if one can be made.
    pub fn sequence(&mut self, rng: &mut Rng, code: Code) -> Option<Sequence> {
        let mut plan = self.plan(rng);
        let mut start = registers(rng, self.bits);
        let alone = is_gather(code);
        let extra = if alone { 0 } else { rng.pick(&[0, 0, 1, 2, 3, 5]) };
        let mut items = Vec::new();
        for n in 0..=extra {
            let code = if n == 0 { code } else { rng.pick(&self.codes) };
            let last = n == extra;
            if n > 0 && is_gather(code) {
                continue;
            }
            let may_clobber = last && (n > 0 || rng.percent(50));
            let made = (0..8).find_map(|_| self.item(rng, &mut plan, code, may_clobber));
            match made {
                Some(mut i) => {
                    if i.skip.is_some() {
                        i.skip = Some(rng.below(2) as usize);
                    }
                    items.push(i);
                }
                None if n == 0 => return None,
                None => {}
            }
        }
        start.gpr = plan.gpr;
        start.rip = self.base + place::CODE;
        if alone {
            self.tame_gather(rng, &items[0].instruction, &mut start);
        }
        Some(Sequence { bits: self.bits, items, start, data: data(rng) })
    }

    fn plan(&self, rng: &mut Rng) -> Plan {
        let count = if self.bits == 64 { 16 } else { 8 };
        let mut gpr = [0; 16];
        for g in gpr.iter_mut().take(count) {
            *g = scalar(rng);
            if self.bits == 32 {
                *g &= 0xffff_ffff;
            }
        }
        let mut free = || loop {
            let r = rng.below(count as u64) as usize;
            if r != RSP && r != RAX {
                return r;
            }
        };
        let pointer = free();
        let index = loop {
            let r = free();
            if r != pointer {
                break r;
            }
        };
        let strings = rng.percent(30);
        gpr[index] = rng.below(64).wrapping_sub(rng.percent(30) as u64 * 32);
        if self.bits == 32 {
            gpr[index] &= 0xffff_ffff;
        }
        if strings {
            gpr[RSI] = self.address(rng, 8);
            gpr[RDI] = self.address(rng, 8);
            gpr[RCX] = rng.below(40);
        }
        gpr[pointer] = self.base + place::DATA + rng.below(place::DATA_LEN as u64);
        if rng.percent(80) {
            gpr[RBX] = if pointer == RBX || rng.percent(50) {
                self.base + place::DATA + rng.below(0x1f00)
            } else {
                gpr[RBX]
            };
        }
        gpr[RSP] =
            (self.base + place::DATA + 0x400 + rng.below(0x1000)) & !if rng.percent(80) { 7 } else { 0 };
        Plan { pointer, index, strings, gpr }
    }

    /// An address for an operand: mostly well inside, sometimes across a page's edge or in pages that fault.
    fn address(&self, rng: &mut Rng, size: u64) -> u64 {
        let data = self.base + place::DATA;
        let edge = |at: u64, rng: &mut Rng| at - rng.below(size.max(2) + 1);
        let a = match rng.below(20) {
            0 => edge(data + 0x1000, rng),
            1 => edge(self.base + place::READ_ONLY, rng),
            2 => edge(self.base + place::END, rng),
            3 => edge(data, rng),
            4 => self.base + place::READ_ONLY + 64 + rng.below(0xe00),
            _ => data + rng.below(0x1f00),
        };
        if rng.percent(65) { a & !(size.next_power_of_two().clamp(1, 64) - 1) } else { a }
    }

    fn item(&mut self, rng: &mut Rng, plan: &mut Plan, code: Code, may_clobber: bool) -> Option<Item> {
        let bytes = template(rng, code, self.bits)?;
        let at = self.base + place::CODE;
        let mut decoder = Decoder::with_ip(self.bits, &bytes, at, DecoderOptions::NONE);
        let mut i = decoder.decode();
        if i.code() != code || i.is_invalid() {
            return None;
        }
        let mut bytes = Some(bytes[..i.len()].to_vec());
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let implicit =
            (0..i.op_count()).find(|n| (OpKind::MemorySegSI..=OpKind::MemoryESRDI).contains(&i.op_kind(*n)));
        if i.segment_prefix() == Register::FS || self.bits == 32 && i.segment_prefix() != Register::None {
            return None;
        }
        if implicit.is_some() {
            if !plan.strings {
                return None;
            }
            // 16-bit addresses lie outside the window.
            if (0..i.op_count()).any(|n| {
                matches!(i.op_kind(n), OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI)
            }) {
                return None;
            }
        }
        if i.mnemonic() == Mnemonic::Xlatb {
            let ok = plan.gpr[RBX].wrapping_sub(self.base + place::DATA) < place::DATA_LEN as u64
                && i.memory_base() != Register::BX;
            if !ok {
                return None;
            }
        } else if memory {
            self.place_operand(rng, plan, &mut i)?;
            bytes = None;
        }
        let skip = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
        if skip {
            bytes = None;
        }
        let stack = i.is_stack_instruction();
        if matches!(i.mnemonic(), Mnemonic::Leave | Mnemonic::Enter) {
            if !may_clobber {
                return None;
            }
            plan.gpr[RBP] = self.base + place::DATA + 0x100 + rng.below(0x1000);
            if plan.pointer == RBP || plan.index == RBP {
                return None;
            }
        }
        if !may_clobber {
            let explicit_rsp = (0..i.op_count()).any(|n| {
                i.op_kind(n) == OpKind::Register && i.op_register(n).full_register() == Register::RSP
            });
            let info = self.factory.info(&i);
            for used in info.used_registers() {
                let writes = matches!(
                    used.access(),
                    OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
                );
                let r = used.register();
                if !writes || !r.is_gpr() {
                    continue;
                }
                let n = r.full_register().number();
                let reserved = n == plan.pointer
                    || n == plan.index
                    || n == RSP && (explicit_rsp || !stack)
                    || n == RBX && plan.gpr[RBX] >> 24 == self.base >> 24
                    || plan.strings && matches!(n, RCX | RSI | RDI) && implicit.is_none();
                if reserved {
                    return None;
                }
            }
        }
        // LOOP and JRCXZ are fine, whatever RCX holds: they go forwards.
        Some(Item { instruction: i, bytes, skip: skip.then_some(0) })
    }

    /// Gives the memory operand an address in the window.
    fn place_operand(&self, rng: &mut Rng, plan: &Plan, i: &mut Instruction) -> Option<()> {
        let size = match i.memory_size().size() {
            0 => 16,
            n => n as u64,
        };
        let mut target = self.address(rng, size);
        let register = |n: usize, wide: bool| {
            Some(if wide { Register::RAX + n as u32 } else { Register::EAX + n as u32 })
        };
        let wide = self.bits == 64 && (i.is_vsib() || rng.percent(90));
        if i.is_vsib() {
            i.set_memory_base(register(plan.pointer, wide)?);
            i.set_memory_displacement64(0);
            i.set_memory_displ_size(0);
            return Some(());
        }
        // Bit strings reach beyond their operand, by a register.
        let reaches = matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
            && i.op1_kind() == OpKind::Register;
        if reaches {
            let bit = i.op1_register().full_register().number();
            if bit != plan.index {
                return None;
            }
            target = self.base + place::DATA + 0x800;
        }
        if i.mnemonic() == Mnemonic::Lea && rng.percent(50) {
            target = rng.next() as i32 as u64;
        }
        let form = rng.below(10);
        i.set_memory_index(Register::None);
        i.set_memory_index_scale(1);
        let mut from = 0u64;
        let address_mask = if wide { u64::MAX } else { 0xffff_ffff };
        match form {
            0 if self.bits == 64 => {
                i.set_memory_base(if wide { Register::RIP } else { Register::EIP });
                i.set_memory_displacement64(target & address_mask);
                i.set_memory_displ_size(if wide { 8 } else { 4 });
                return Some(());
            }
            1 => i.set_memory_base(Register::None),
            _ => {
                let base = if rng.percent(15) { RSP } else { plan.pointer };
                if base == RSP && plan.strings {
                    return None;
                }
                // RSP moves; the operand only has to stay within the window's neighbourhood.
                i.set_memory_base(register(base, wide)?);
                from = plan.gpr[base];
            }
        }
        if form >= 5 || form == 1 {
            let scale = 1 << rng.below(4);
            i.set_memory_index(register(plan.index, wide)?);
            i.set_memory_index_scale(scale);
            from = from.wrapping_add(plan.gpr[plan.index].wrapping_mul(scale as u64));
        }
        let displacement = target.wrapping_sub(from) as i64;
        let displacement = if wide { displacement } else { displacement as i32 as i64 };
        if displacement != displacement as i32 as i64 {
            return None;
        }
        let none = i.memory_base() == Register::None;
        let full = if wide { 8 } else { 4 };
        i.set_memory_displ_size(match displacement {
            _ if none => full,
            0 if rng.percent(80)
                && !matches!(i.memory_base().full_register(), Register::RBP | Register::R13) =>
            {
                0
            }
            -128..=127 if rng.percent(80) => 1,
            _ => full,
        });
        i.set_memory_displacement64(displacement as u64 & address_mask);
        Some(())
    }

    /// Indices that stay near the pointer, and some elements masked off.
    fn tame_gather(&self, rng: &mut Rng, i: &Instruction, start: &mut Registers) {
        let index = i.memory_index().number();
        let wide = matches!(
            i.mnemonic(),
            Mnemonic::Vgatherqps | Mnemonic::Vgatherqpd | Mnemonic::Vpgatherqd | Mnemonic::Vpgatherqq
        );
        let step = if wide { 8 } else { 4 };
        for at in (0..16).step_by(step) {
            for half in [160, 576] {
                let place = half + index * 16 + at;
                let value = rng.below(200) as i64 - 100;
                start.xsave[place..place + step].copy_from_slice(&value.to_le_bytes()[..step]);
            }
        }
    }
}

fn is_gather(code: Code) -> bool {
    format!("{:?}", code.mnemonic()).contains("gather")
}

/// Bytes that may decode to `code`: right prefixes and opcode, random otherwise.
fn template(rng: &mut Rng, code: Code, bits: u32) -> Option<Vec<u8>> {
    let info = code.op_code();
    let kinds: Vec<Kind> = (0..info.op_count()).map(|n| info.op_kind(n)).collect();
    let mut b = Vec::new();
    let is = |list: &[Kind]| kinds.iter().any(|k| list.contains(k));
    let opcode = info.op_code();
    let mut op =
        if info.op_code_len() == 2 { vec![(opcode >> 8) as u8, opcode as u8] } else { vec![opcode as u8] };
    if is(&[Kind::r8_opcode, Kind::r16_opcode, Kind::r32_opcode, Kind::r64_opcode]) {
        *op.last_mut()? += rng.below(8) as u8;
    }
    if info.encoding() == EncodingKind::VEX {
        let map = match info.table() {
            OpCodeTableKind::T0F => 1,
            OpCodeTableKind::T0F38 => 2,
            OpCodeTableKind::T0F3A => 3,
            _ => return None,
        };
        let pp = match info.mandatory_prefix() {
            MandatoryPrefix::P66 => 1,
            MandatoryPrefix::PF3 => 2,
            MandatoryPrefix::PF2 => 3,
            _ => 0,
        };
        let random = rng.next() as u8;
        let w = if info.is_wig() || info.is_wig32() && bits == 32 {
            random & 0x80
        } else {
            (info.w() as u8) << 7
        };
        let l = if info.is_lig() { random & 4 } else { (info.l() as u8 & 1) << 2 };
        let named = is(&[Kind::xmm_vvvv, Kind::ymm_vvvv, Kind::r32_vvvv, Kind::r64_vvvv]);
        let vvvv = if named { random << 1 & 0x78 } else { 0x78 };
        let rxb = if bits == 64 { rng.next() as u8 & 0xe0 } else { 0xe0 };
        b.extend([0xc4, rxb | map, w | (if bits == 32 { vvvv | 0x40 } else { vvvv }) | l | pp]);
        b.extend(op);
    } else {
        if info.address_size() == if bits == 64 { 32 } else { 16 } {
            b.push(0x67);
        }
        match info.mandatory_prefix() {
            MandatoryPrefix::P66 => b.push(0x66),
            MandatoryPrefix::PF3 => b.push(0xf3),
            MandatoryPrefix::PF2 => b.push(0xf2),
            _ => {}
        }
        if info.operand_size() == 16 {
            b.push(0x66);
        }
        if bits == 32 && info.operand_size() == 64 {
            return None;
        }
        let strings = kinds
            .iter()
            .any(|k| format!("{k:?}").starts_with("seg_r") || format!("{k:?}").starts_with("es_r"));
        if strings && info.mandatory_prefix() == MandatoryPrefix::None && rng.percent(60) {
            b.push(rng.pick(&[0xf2, 0xf3]));
        }
        if info.can_use_lock_prefix() && rng.percent(20) {
            b.push(0xf0);
        }
        if rng.percent(3) {
            b.push(0x65);
        }
        let rex_w = info.operand_size() == 64 && !info.default_op_size64() && !info.force_op_size64();
        if bits == 64 && (rex_w || rng.percent(60)) {
            let w = if rex_w { 8 } else { 0 };
            b.push(0x40 | w | rng.below(8) as u8);
        }
        match info.table() {
            OpCodeTableKind::Normal => {}
            OpCodeTableKind::T0F => b.push(0x0f),
            OpCodeTableKind::T0F38 => b.extend([0x0f, 0x38]),
            OpCodeTableKind::T0F3A => b.extend([0x0f, 0x3a]),
            _ => return None,
        }
        b.extend(op);
    }
    // ModRM if there is one: harmless where there isn't.
    let mut modrm = rng.next() as u8;
    let in_register = kinds.iter().any(|k| format!("{k:?}").ends_with("_rm"));
    let in_memory = kinds.iter().any(|k| format!("{k:?}").starts_with("mem"));
    if info.is_rm_group() {
        modrm = 0xc0 | modrm & 0x38 | info.rm_group_index() as u8;
    }
    if in_register || rng.percent(45) && !in_memory {
        modrm |= 0xc0;
    } else if modrm >= 0xc0 {
        modrm &= 0x3f;
    }
    if is(&[Kind::mem_vsib32x, Kind::mem_vsib32y, Kind::mem_vsib64x, Kind::mem_vsib64y]) {
        modrm = modrm & 0x38 | 4;
    }
    if info.is_group() {
        modrm = modrm & !0x38 | (info.group_index() as u8) << 3;
    }
    if info.op_code_len() == 1 {
        b.push(modrm);
    }
    for _ in 0..11 {
        let byte = if rng.percent(20) {
            rng.pick(&[0, 1, 7, 8, 31, 32, 63, 0x7f, 0x80, 0xff])
        } else {
            rng.next() as u8
        };
        b.push(byte);
    }
    // As many bytes as an instruction may have.
    b.truncate(15);
    Some(b)
}
