//! The daemon that runs virtual machines, and what `vmctl` needs to talk to it.
//!
//! | role | file |
//! |---|---|
//! | opens disks, kernels, terminals | [`parent`] |
//! | the socket, the conversations | [`control`], [`socket`], [`frame`], [`protocol`] |
//! | which VMs there are, and their lives | [`registry`], [`vm`] |
//! | inside a VM's own process | [`process`], [`channel`], [`launch`] |

pub mod channel;
pub mod client;
pub mod control;
pub mod daemon;
pub mod ending;
pub mod frame;
pub mod launch;
pub mod parent;
pub mod process;
pub mod protocol;
pub mod registry;
pub mod socket;
pub mod spec;
mod supervisor;
mod users;
pub mod vm;

pub use ending::Ending;
pub use spec::VmSpec;

/// An error and its causes as one sentence, leaving out causes that it tells already.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(|cause| cause.to_string()) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_tells_each_cause_once() {
        let cause = std::io::Error::other("no space");
        let error = anyhow::Error::new(parent::Error::Pty(cause)).context("x can't start");
        let told = sentence(&error);
        assert!(told.starts_with("x can't start: a pseudo-terminal"), "{told}");
        assert_eq!(told.matches("no space").count(), 1);
    }
}
