//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(
    name = "vmctl",
    version,
    about = "Controls virtual machines",
    long_about = "Controls virtual machines. Any unique prefix of a command is accepted.",
    after_help = "vmctl(8) describes every command and the exit status.",
    disable_help_subcommand = false,
    max_term_width = 100
)]
pub struct Options {
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print JSON, on commands that list
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print a script for the shell that completes vmctl's command lines
    Completions { shell: clap_complete::Shell },
    /// Join the terminal to a VM's console; ~. leaves it, ~~ sends a ~
    Console {
        #[arg(value_name = "id|name")]
        vm: String,
    },
    /// Make an empty disk
    Create(Create),
    /// Load a configuration (not in this version)
    Load { filename: PathBuf },
    /// Set the daemon's verbosity (not in this version)
    Log { verbosity: String },
    /// Stop a VM's clock and processors
    Pause {
        #[arg(value_name = "id|name")]
        vm: String,
    },
    /// Receive a VM from standard input (not in this version)
    Receive { name: String },
    /// Load the configuration anew (not in this version)
    Reload,
    /// Remove VMs or switches (not in this version)
    Reset { what: Option<String> },
    /// Restore a snapshot (not in this version)
    Restore { arguments: Vec<String> },
    /// Run a VM in the foreground, with no daemon; ~. ends it
    Run(Run),
    /// Send a VM to standard output (not in this version)
    Send {
        #[arg(value_name = "id|name")]
        vm: String,
    },
    /// Take a snapshot (not in this version)
    Snapshot { arguments: Vec<String> },
    /// Start a VM, and the daemon where none runs
    Start(Start),
    /// List VMs
    #[command(visible_alias = "show")]
    Status {
        /// Only VMs that run
        #[arg(short)]
        running: bool,
        #[arg(value_name = "id|name")]
        vm: Option<String>,
    },
    /// Ask a VM to power off
    Stop(Stop),
    /// Let a paused VM go on
    Unpause {
        #[arg(value_name = "id|name")]
        vm: String,
    },
    /// Wait until a VM has ended, and give its exit status
    Wait {
        #[arg(value_name = "id|name")]
        vm: String,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// A qcow2 image to base the new one on (not in this version)
    #[arg(short, value_name = "base")]
    pub base: Option<PathBuf>,
    /// A disk to convert (not in this version)
    #[arg(short, value_name = "disk")]
    pub input: Option<PathBuf>,
    /// The disk's size: a number with B K M G T P E
    #[arg(short, value_name = "size")]
    pub size: Option<String>,
    /// The disk's path
    pub disk: String,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Kill it, without asking the guest
    #[arg(short)]
    pub force: bool,
    /// Wait until it has ended
    #[arg(short)]
    pub wait: bool,
    /// All VMs
    #[arg(short, conflicts_with = "vm")]
    pub all: bool,
    #[arg(value_name = "id|name", required_unless_present = "all")]
    pub vm: Option<String>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// Join the terminal to the console at once
    #[arg(short)]
    pub console: bool,
    #[command(flatten)]
    pub machine: Machine,
    #[arg(value_name = "id|name")]
    pub vm: String,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Accepted, as for start: the console is always here
    #[arg(short)]
    pub console: bool,
    #[command(flatten)]
    pub machine: Machine,
    /// The VM's name
    #[arg(default_value = "vm")]
    pub name: String,
}

/// What a VM is made of.
#[derive(Debug, Args)]
pub struct Machine {
    /// Give it a local interface (not in this version)
    #[arg(short = 'L')]
    pub local: bool,
    /// Boot from cdrom, disk or net (not in this version)
    #[arg(short = 'B', value_name = "device")]
    pub boot_device: Option<String>,
    /// Kernel: a Linux bzImage, an ELF with the PVH note, or a Multiboot 1 image
    #[arg(short = 'b', value_name = "image")]
    pub boot: Option<PathBuf>,
    /// Disk, with raw: before it to keep it from being taken for another format; may be repeated
    #[arg(short = 'd', value_name = "disk")]
    pub disks: Vec<String>,
    /// Number of network interfaces; this version has none
    #[arg(short = 'i', value_name = "count", default_value_t = 0)]
    pub interfaces: u32,
    /// Memory: a number with B K M G T P E, rounded down to whole M
    #[arg(short = 'm', value_name = "size", default_value = "512M")]
    pub memory: String,
    /// A switch for a network interface (not in this version)
    #[arg(short = 'n', value_name = "switch")]
    pub switches: Vec<String>,
    /// Number of processors
    #[arg(short = 'p', value_name = "cpus", default_value_t = 1)]
    pub cpus: u32,
    /// CD image (not in this version)
    #[arg(short = 'r', value_name = "iso")]
    pub cdrom: Option<PathBuf>,
    /// VM that this one is an instance of (not in this version)
    #[arg(short = 't', value_name = "parent")]
    pub template: Option<String>,
    /// Kernel command line
    #[arg(long, value_name = "text", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// Initial RAM disk, or a Multiboot module with its arguments after a space; may be repeated
    #[arg(long, value_name = "file [arguments]")]
    pub initrd: Vec<String>,
    /// End with the status (value << 1) | 1 when the guest writes value to this port, 0xf4 where not given
    #[arg(long, value_name = "port", num_args = 0..=1, require_equals = true)]
    pub debug_exit: Option<Option<String>>,
    /// Send what the guest writes to ports 0xe9 and 0x402 to a file, or for run to standard error
    #[arg(long, value_name = "file", num_args = 0..=1, require_equals = true)]
    pub debugcon: Option<Option<PathBuf>>,
    /// Run the guest's processors with this engine: translate; translate:t1, which looks up every memory access;
    /// translate:t0, which interprets only; or translate:lockstep, which does everything both ways and stops at the
    /// first difference
    ///
    /// Behind a comma, cache=SIZE bounds the memory for translated code: 256M where not given
    #[arg(long, value_name = "name[,cache=size]")]
    pub engine: Option<String>,
}
