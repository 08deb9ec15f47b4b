//! What this Linux's device tree says of the hypervisor. Properties are big-endian (Devicetree Specification 2.2.4).

use std::path::Path;

/// Where Linux shows the tree.
pub const TREE: &str = "/proc/device-tree";
const NODE: &str = "hypervisor";

/// The doorbell's physical address.
///
/// Errors: a sentence that says why there is none.
pub fn doorbell(tree: &Path) -> Result<u64, String> {
    let node = tree.join(NODE);
    let none = "this Linux does not run on the Auberge hypervisor";
    let compatible = std::fs::read(node.join("compatible")).map_err(|_| none.to_owned())?;
    if !compatible.split(|&b| b == 0).any(|name| name == hypercall::COMPATIBLE.as_bytes()) {
        return Err(format!("{none} but on another, or on another version than {}", hypercall::COMPATIBLE));
    }
    let cells = std::fs::read(tree.join("#address-cells")).ok();
    let cells = cells.and_then(|bytes| number(&bytes)).unwrap_or(2);
    let reg = std::fs::read(node.join("reg")).unwrap_or_default();
    let address = usize::try_from(cells).ok().filter(|cells| (1..=2).contains(cells));
    let address = address.and_then(|cells| number(reg.get(..4 * cells)?));
    match address {
        Some(address) if address % 4096 == 0 => Ok(address),
        _ => Err("the device tree's hypervisor node says no page that calls go to".to_owned()),
    }
}

/// One or two cells.
fn number(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 | 8 => Some(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(compatible: &[u8], cells: u8, reg: &[u8]) -> Result<u64, String> {
        let name = format!("auberge-tree-{}-{:?}", std::process::id(), std::thread::current().id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(root.join(NODE)).unwrap();
        std::fs::write(root.join("#address-cells"), [0, 0, 0, cells]).unwrap();
        std::fs::write(root.join(NODE).join("compatible"), compatible).unwrap();
        std::fs::write(root.join(NODE).join("reg"), reg).unwrap();
        let found = doorbell(&root);
        std::fs::remove_dir_all(root).unwrap();
        found
    }

    #[test]
    fn doorbell_is_read_with_one_and_two_cells() {
        let compatible = b"other\0auberge,hypervisor-1\0";
        assert_eq!(
            tree(compatible, 2, &[0, 0, 0, 1, 0x0b, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]),
            Ok(0x1_0b00_1000)
        );
        assert_eq!(tree(compatible, 1, &[0x0b, 0, 0x10, 0, 0, 0, 0x10, 0]), Ok(0x0b00_1000));
    }

    #[test]
    fn doorbell_other_hypervisors_and_broken_nodes_are_sentences() {
        assert!(tree(b"xen,xen\0", 2, &[]).unwrap_err().contains("another"));
        assert!(tree(b"auberge,hypervisor-1\0", 2, &[0; 7]).unwrap_err().contains("no page"));
        assert!(tree(b"auberge,hypervisor-1\0", 9, &[0; 99]).unwrap_err().contains("no page"));
        assert!(tree(b"auberge,hypervisor-1\0", 1, &[0, 0, 0, 4]).unwrap_err().contains("no page"));
        assert!(doorbell(Path::new("/nonexistent")).unwrap_err().contains("does not run on"));
    }
}
