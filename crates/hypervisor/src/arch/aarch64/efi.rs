//! Out of UEFI: the device tree that the boot loader has installed there, and the end of the firmware's services (UEFI 2.10, 4 and 7).
//!
//! Runs in UEFI's world, before anything else of ours: on its stack, with nothing but its calls.

/// What of EFI_SYSTEM_TABLE is used.
#[repr(C)]
struct SystemTable {
    header: [u64; 3],
    vendor: [u64; 5],
    console_out: *const TextOutput,
    error: [u64; 3],
    boot_services: *const BootServices,
    entries: usize,
    tables: *const ConfigurationTable,
}

#[repr(C)]
struct TextOutput {
    reset: usize,
    output_string: extern "C" fn(*const TextOutput, *const u16) -> usize,
}

/// EFI_BOOT_SERVICES: the fifth function, and the 27th.
#[repr(C)]
struct BootServices {
    header: [u64; 3],
    before: [usize; 4],
    get_memory_map: extern "C" fn(&mut usize, *mut u8, &mut usize, &mut usize, &mut u32) -> usize,
    between: [usize; 21],
    exit_boot_services: extern "C" fn(handle: usize, key: usize) -> usize,
}

#[repr(C)]
struct ConfigurationTable {
    guid: [u64; 2],
    table: usize,
}

/// EFI_DTB_TABLE_GUID: b1b621d5-f19c-41a5-830b-d9152c69aae0.
const DEVICE_TREE: [u64; 2] = [0x41a5_f19c_b1b6_21d5, 0xe0aa_692c_15d9_0b83];
/// Bytes of a memory map, at most.
const MAP: usize = 32 << 10;

static mut MEMORY_MAP: [u64; MAP / 8] = [0; MAP / 8];

/// Ends the boot services, and gives the device tree's address; 0 if there is none, or they don't end.
///
/// # Safety
/// The pointers are what UEFI gives a program that it starts.
#[unsafe(no_mangle)]
unsafe extern "C" fn efi_leave(handle: usize, system: *const SystemTable) -> usize {
    // SAFETY: the firmware's tables are as UEFI says, and stay until the services end; this is the map's only use.
    let (system, services, tables, map) = unsafe {
        let system = &*system;
        let tables = core::slice::from_raw_parts(system.tables, system.entries);
        (system, &*system.boot_services, tables, (&raw mut MEMORY_MAP).cast())
    };
    let say = |text: &str| {
        let mut line = [0; 128];
        line.iter_mut().zip(text.encode_utf16()).take(127).for_each(|(to, from)| *to = from);
        // SAFETY: a firmware without console has a null pointer there.
        if let Some(out) = unsafe { system.console_out.as_ref() } {
            (out.output_string)(out, line.as_ptr());
        }
    };
    let Some(tree) = tables.iter().find(|table| table.guid == DEVICE_TREE) else {
        say("auberge: The firmware has no device tree, only ACPI: the hypervisor needs one.\r\n");
        return 0;
    };
    // The map can change between the two calls: then its key is refused.
    for _ in 0..8 {
        let (mut size, mut key, mut entry, mut version) = (MAP, 0, 0, 0);
        if (services.get_memory_map)(&mut size, map, &mut key, &mut entry, &mut version) == 0
            && (services.exit_boot_services)(handle, key) == 0
        {
            return tree.table;
        }
    }
    say("auberge: The firmware's boot services don't end.\r\n");
    0
}
