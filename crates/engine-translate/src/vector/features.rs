//! What of x87, MMX, SSE and AVX a guest is offered: what the host has, and this engine knows.

use iced_x86::CpuidFeature;
use std::arch::x86_64::{__cpuid, __cpuid_count, _fxsave64, _xgetbv};
use std::sync::OnceLock;

/// Vector features of the host that guests may be told of in CPUID. x87, MMX, FXSR, SSE and SSE2 are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFeatures {
    pub sse3: bool,
    pub ssse3: bool,
    pub sse4_1: bool,
    pub sse4_2: bool,
    pub aes: bool,
    pub pclmulqdq: bool,
    pub sha: bool,
    pub gfni: bool,
    /// XSAVE, XRSTOR, XGETBV, XSETBV.
    pub xsave: bool,
    pub xsaveopt: bool,
    pub avx: bool,
    pub avx2: bool,
    pub fma: bool,
    pub f16c: bool,
    /// VEX-encoded, 256 bits.
    pub vaes: bool,
    pub vpclmulqdq: bool,
    pub avx_vnni: bool,
    /// CPUID.07H.EBX bit 6: FDP is updated only on unmasked exceptions.
    pub fdp_exception_only: bool,
    /// CPUID.07H.EBX bit 13: FCS and FDS are always saved as zero. Guests are to be told so in any case: this engine keeps neither.
    pub no_fcs_fds: bool,
    /// Bits that a guest may set in XCR0.
    pub xcr0: u64,
}

/// The features offered, found once.
pub fn host_features() -> &'static HostFeatures {
    static FOUND: OnceLock<HostFeatures> = OnceLock::new();
    FOUND.get_or_init(find)
}

fn find() -> HostFeatures {
    let max = __cpuid(0).eax;
    let one = __cpuid(1);
    let seven = if max >= 7 { __cpuid_count(7, 0) } else { __cpuid(0x8000_0000 + 0xff) };
    let (b7, c7) = if max >= 7 { (seven.ebx, seven.ecx) } else { (0, 0) };
    let a71 = if max >= 7 && seven.eax >= 1 { __cpuid_count(7, 1).eax } else { 0 };
    let xsave1 = if max >= 0xd { __cpuid_count(0xd, 1).eax } else { 0 };
    let bit = |r: u32, n: u32| r >> n & 1 != 0;
    let osxsave = bit(one.ecx, 27);
    // SAFETY: CPUID says that the system enabled XGETBV.
    let xcr0 = if osxsave { unsafe { xgetbv() } } else { 1 };
    let avx = bit(one.ecx, 28) && xcr0 & 6 == 6;
    HostFeatures {
        sse3: bit(one.ecx, 0),
        ssse3: bit(one.ecx, 9),
        sse4_1: bit(one.ecx, 19),
        sse4_2: bit(one.ecx, 20),
        aes: bit(one.ecx, 25),
        pclmulqdq: bit(one.ecx, 1),
        sha: bit(b7, 29),
        gfni: bit(c7, 8),
        xsave: true,
        xsaveopt: bit(xsave1, 0),
        avx,
        avx2: avx && bit(b7, 5),
        fma: avx && bit(one.ecx, 12),
        f16c: avx && bit(one.ecx, 29),
        vaes: avx && bit(c7, 9),
        vpclmulqdq: avx && bit(c7, 10),
        avx_vnni: avx && bit(a71, 4),
        fdp_exception_only: bit(b7, 6),
        no_fcs_fds: bit(b7, 13),
        xcr0: if avx { 7 } else { 3 },
    }
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: the caller made sure of OSXSAVE; XCR0 always exists.
    unsafe { _xgetbv(0) }
}

/// Bits of MXCSR that may be set (SDM 1 11.6.6).
pub fn mxcsr_mask() -> u32 {
    static FOUND: OnceLock<u32> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let mut image = super::state::Aligned([0u8; 512]);
        // SAFETY: x86-64 always has FXSAVE, and the image is 512 bytes, aligned to 64.
        unsafe { _fxsave64(image.0.as_mut_ptr()) };
        match u32::from_le_bytes([image.0[28], image.0[29], image.0[30], image.0[31]]) {
            0 => 0xffbf,
            mask => mask & 0xffff,
        }
    })
}

/// Whether the guest's processor has an instruction that needs all of these.
pub fn offered(needs: &[CpuidFeature]) -> bool {
    let host = host_features();
    needs.iter().all(|f| match f {
        CpuidFeature::INTEL8086
        | CpuidFeature::INTEL8086_ONLY
        | CpuidFeature::INTEL386
        | CpuidFeature::INTEL486
        | CpuidFeature::X64
        | CpuidFeature::FPU
        | CpuidFeature::FPU287
        | CpuidFeature::FPU387
        | CpuidFeature::CMOV
        | CpuidFeature::FXSR
        | CpuidFeature::MMX
        | CpuidFeature::SSE
        | CpuidFeature::SSE2 => true,
        CpuidFeature::SSE3 => host.sse3,
        CpuidFeature::SSSE3 => host.ssse3,
        CpuidFeature::SSE4_1 => host.sse4_1,
        CpuidFeature::SSE4_2 => host.sse4_2,
        CpuidFeature::AES => host.aes,
        CpuidFeature::PCLMULQDQ => host.pclmulqdq,
        CpuidFeature::SHA => host.sha,
        CpuidFeature::GFNI => host.gfni,
        CpuidFeature::XSAVE => host.xsave,
        CpuidFeature::XSAVEOPT => host.xsaveopt,
        CpuidFeature::AVX => host.avx,
        CpuidFeature::AVX2 => host.avx2,
        CpuidFeature::FMA => host.fma,
        CpuidFeature::F16C => host.f16c,
        CpuidFeature::VAES => host.vaes,
        CpuidFeature::VPCLMULQDQ => host.vpclmulqdq,
        CpuidFeature::AVX_VNNI => host.avx_vnni,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_features_on_this_machine_agree_with_std() {
        let f = host_features();
        assert_eq!(f.avx2, is_x86_feature_detected!("avx2"));
        assert_eq!(f.fma, is_x86_feature_detected!("fma"));
        assert_eq!(f.sse4_2, is_x86_feature_detected!("sse4.2"));
        assert_eq!(f.sha, is_x86_feature_detected!("sha"));
        assert_eq!(f.aes, is_x86_feature_detected!("aes"));
        assert_eq!(f.f16c, is_x86_feature_detected!("f16c"));
    }

    #[test]
    fn offered_avx512_is_never() {
        assert!(!offered(&[CpuidFeature::AVX512F]));
        assert!(!offered(&[CpuidFeature::SSE, CpuidFeature::D3NOW]));
        assert!(offered(&[CpuidFeature::SSE2]));
    }
}
