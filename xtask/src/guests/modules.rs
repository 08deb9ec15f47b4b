//! A kernel's loadable modules: which ones a guest needs, with what they depend on.
//!
//! Debian's kernel packages have no `modules.dep` (depmod writes it at installation), so the modules themselves are
//! read: their `.modinfo` section holds NUL-terminated `key=value` entries, among them `depends` and `alias`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use elf::ElfBytes;
use elf::endian::AnyEndian;

/// What a module says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// Names of the modules it needs, as its author wrote them (`-` or `_`).
    pub depends: Vec<String>,
    /// Patterns of the devices it drives, as in `modules.alias`.
    pub aliases: Vec<String>,
}

/// One module, its file read.
pub struct Module {
    /// Its name with `_` only, as the kernel tells it.
    pub name: String,
    /// Its path below `lib/modules/VERSION`.
    pub path: String,
    pub info: Modinfo,
    pub contents: Vec<u8>,
}

/// A kernel's module files and the names that are built into it.
pub struct Tree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// The kernel's spelling of a module's name: `virtio-rng` and `virtio_rng` are one.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name for a path such as `kernel/drivers/virtio/virtio_pci.ko`.
fn name_of(path: &Path) -> Option<String> {
    Some(canonical(path.file_name()?.to_str()?.strip_suffix(".ko")?))
}

impl Tree {
    /// The modules below `root`, a kernel's `lib/modules/VERSION`.
    pub fn open(root: &Path) -> Result<Tree> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("the kernel package has no modules at {}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if let Some(name) = name_of(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = std::fs::read_to_string(root.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Tree { root: root.to_owned(), files, builtin })
    }

    /// The `wanted` modules and all they need, each after what it depends on. What the kernel has built in, or was
    /// built without, is left out.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = BTreeMap::new();
        let there: Vec<String> =
            wanted.iter().map(|name| canonical(name)).filter(|name| self.files.contains_key(name)).collect();
        let order = order(&there, |name| {
            if self.builtin.contains(name) && !self.files.contains_key(name) {
                return Ok(None);
            }
            let module = self.read(name)?;
            let depends = module.info.depends.clone();
            loaded.insert(name.to_owned(), module);
            Ok(Some(depends))
        })?;
        Ok(order.iter().filter_map(|name| loaded.remove(name)).collect())
    }

    fn read(&self, name: &str) -> Result<Module> {
        let file = self.files.get(name).ok_or_else(|| anyhow!("the kernel package has no module {name}"))?;
        let contents = std::fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
        let info = modinfo(&contents).with_context(|| format!("{} is not a module", file.display()))?;
        let path = file.strip_prefix(&self.root)?.to_string_lossy().into_owned();
        Ok(Module { name: name.to_owned(), path, info, contents })
    }
}

/// Every name reachable from `wanted`, each after all it depends on. `depends` gives a name's needs, or none for
/// what needs no loading.
///
/// Errors: those of `depends`, and modules that depend on each other in a circle.
fn order(
    wanted: &[String],
    mut depends: impl FnMut(&str) -> Result<Option<Vec<String>>>,
) -> Result<Vec<String>> {
    enum Visit {
        Enter(String),
        Leave(String),
    }
    let mut done = Vec::new();
    let mut finished = BTreeSet::new();
    let mut entered = BTreeSet::new();
    let mut stack: Vec<Visit> = wanted.iter().rev().map(|name| Visit::Enter(canonical(name))).collect();
    while let Some(visit) = stack.pop() {
        match visit {
            Visit::Leave(name) => {
                finished.insert(name.clone());
                done.push(name);
            }
            Visit::Enter(name) if finished.contains(&name) => {}
            Visit::Enter(name) if !entered.insert(name.clone()) => {
                bail!("the modules depend on each other in a circle: {name} needs itself")
            }
            Visit::Enter(name) => {
                let Some(needs) = depends(&name)? else {
                    finished.insert(name);
                    continue;
                };
                stack.push(Visit::Leave(name));
                stack.extend(needs.iter().rev().map(|need| Visit::Enter(canonical(need))));
            }
        }
    }
    Ok(done)
}

/// Reads a module's `.modinfo`.
fn modinfo(module: &[u8]) -> Result<Modinfo> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(module)?;
    let section = elf.section_header_by_name(".modinfo")?.context("there is no section .modinfo")?;
    let (data, _) = elf.section_data(&section)?;
    Ok(parse_modinfo(data))
}

fn parse_modinfo(data: &[u8]) -> Modinfo {
    let mut info = Modinfo::default();
    for entry in data.split(|&byte| byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", names)) => {
                info.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
            }
            Some(("alias", pattern)) => info.aliases.push(pattern.to_owned()),
            _ => {}
        }
    }
    info
}

/// The text of `modules.dep`: each module's path, then the paths of all it needs, the last to be loaded first.
pub fn modules_dep(modules: &[Module]) -> String {
    let by_name: BTreeMap<&str, &Module> =
        modules.iter().map(|module| (module.name.as_str(), module)).collect();
    let mut text = String::new();
    for module in modules {
        let wanted = [module.name.clone()];
        let needs = |name: &str| Ok(by_name.get(name).map(|module| module.info.depends.clone()));
        // No circle: `closure` has been through all of them.
        let mut needed = order(&wanted, needs).unwrap_or_default();
        needed.retain(|name| *name != module.name);
        text += &format!("{}:", module.path);
        for need in needed.iter().rev() {
            text += &format!(" {}", by_name[need.as_str()].path);
        }
        text.push('\n');
    }
    text
}

/// The text of `modules.alias`.
pub fn modules_alias(modules: &[Module]) -> String {
    modules
        .iter()
        .flat_map(|module| module.info.aliases.iter().map(|alias| format!("alias {alias} {}\n", module.name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(name: &str) -> Result<Option<Vec<String>>> {
        let needs: &[&str] = match name {
            "virtio_pci" => &["virtio_pci_modern_dev", "virtio-ring", "virtio"],
            "virtio_pci_modern_dev" | "virtio" => &[],
            "virtio_ring" => &["virtio"],
            "rng_core" => return Ok(None),
            "virtio_rng" => &["virtio_ring", "rng-core"],
            "a" => &["b"],
            "b" => &["a"],
            _ => bail!("no module {name}"),
        };
        Ok(Some(needs.iter().map(|&name| name.to_owned()).collect()))
    }

    fn ordered(wanted: &[&str]) -> Result<Vec<String>> {
        order(&wanted.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), needs)
    }

    #[test]
    fn order_shared_dependencies_come_once_and_first() {
        let order = ordered(&["virtio_pci", "virtio-rng"]).expect("no circle");
        assert_eq!(order, ["virtio_pci_modern_dev", "virtio", "virtio_ring", "virtio_pci", "virtio_rng"]);
    }

    #[test]
    fn order_circle_is_an_error() {
        assert!(ordered(&["a"]).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn order_missing_module_is_an_error() {
        assert!(ordered(&["gone"]).unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn parse_modinfo_reads_depends_and_aliases() {
        let data = b"license=GPL\0alias=pci:v00001AF4d*sv*\0depends=virtio,virtio_ring\0alias=x\0depends=\0";
        let info = parse_modinfo(data);
        assert_eq!(info.depends, ["virtio", "virtio_ring"]);
        assert_eq!(info.aliases, ["pci:v00001AF4d*sv*", "x"]);
    }

    #[test]
    fn modinfo_not_an_elf_file_is_an_error() {
        assert!(modinfo(b"not a module").is_err());
        assert!(modinfo(&[]).is_err());
    }

    #[test]
    fn modules_dep_lists_transitive_needs_last_first() {
        let module = |name: &str, depends: &[&str]| Module {
            name: name.into(),
            path: format!("kernel/{name}.ko"),
            info: Modinfo { depends: depends.iter().map(|&d| d.into()).collect(), aliases: vec![] },
            contents: vec![],
        };
        let modules =
            [module("virtio", &[]), module("ring", &["virtio"]), module("pci", &["ring", "virtio"])];
        let expected = "kernel/virtio.ko:\n\
                        kernel/ring.ko: kernel/virtio.ko\n\
                        kernel/pci.ko: kernel/ring.ko kernel/virtio.ko\n";
        assert_eq!(modules_dep(&modules), expected);
    }
}
