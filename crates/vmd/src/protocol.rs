//! What `vmctl` and `vmd` say to each other over the control socket: after a greeting, requests and their replies.

use crate::ending::Ending;
use crate::spec::VmSpec;
use serde::{Deserialize, Serialize};

/// Grows with every change that an older side would misunderstand.
pub const VERSION: u32 = 1;

/// The first message of either side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Always `auberge-vmd`.
    pub protocol: String,
    /// [`VERSION`].
    pub version: u32,
}

impl Hello {
    pub fn ours() -> Self {
        Hello { protocol: "auberge-vmd".into(), version: VERSION }
    }

    /// Whether the other side speaks as we do; the error is a sentence for the other side's user.
    pub fn check(&self) -> Result<(), String> {
        match self {
            h if h.protocol != Hello::ours().protocol => {
                Err(format!("\"{}\" is not the protocol of vmd", h.protocol))
            }
            h if h.version != VERSION => Err(format!(
                "one side speaks version {} of the protocol, the other {VERSION}: use vmctl and vmd of one release, and restart \
                 vmd after an update",
                h.version
            )),
            _ => Ok(()),
        }
    }
}

/// What a client asks. `vm` is an id or a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    Start {
        spec: Box<VmSpec>,
    },
    /// All VMs, or one. Replies [`Reply::Vms`].
    Status {
        vm: Option<String>,
    },
    /// One VM, or all. Replies [`Reply::Stopping`] at once, or, with `force`, when they are gone.
    Stop {
        vm: Option<String>,
        force: bool,
    },
    Pause {
        vm: String,
    },
    Unpause {
        vm: String,
    },
    /// Replies [`Reply::Ended`] when it has ended.
    Wait {
        vm: String,
    },
    /// Replies [`Reply::Console`].
    Console {
        vm: String,
    },
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Done {
        vm: VmRef,
    },
    Started {
        vm: VmInfo,
    },
    Vms {
        vms: Vec<VmInfo>,
    },
    Stopping {
        vms: Vec<VmRef>,
    },
    Ended {
        vm: VmRef,
        ending: Ending,
    },
    /// Path of the terminal device of the VM's console.
    Console {
        vm: VmRef,
        tty: String,
    },
    /// A sentence for the user.
    Error {
        message: String,
    },
}

/// Which VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRef {
    pub id: u32,
    pub name: String,
}

/// A line of `vmctl status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    pub id: u32,
    pub name: String,
    pub pid: Option<u32>,
    pub vcpus: u32,
    /// Bytes.
    pub max_memory: u64,
    /// Resident bytes of the VM's process.
    pub current_memory: Option<u64>,
    /// Path of the console's terminal device.
    pub tty: Option<String>,
    pub owner: String,
    pub state: State,
}

/// A VM's state: the first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Paused,
    Waiting,
    Stopping,
    Running,
    Stopped,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Paused => "paused",
            State::Waiting => "waiting",
            State::Stopping => "stopping",
            State::Running => "running",
            State::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_json_is_as_documented() {
        let stop = Request::Stop { vm: Some("web".into()), force: true };
        let text = r#"{"request":"stop","vm":"web","force":true}"#;
        assert_eq!(serde_json::to_string(&stop).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), stop);
    }

    #[test]
    fn request_of_another_shape_is_refused() {
        for text in [
            r#"{"request":"explode"}"#,
            r#"{"request":"stop","vm":7,"force":true}"#,
            "[]",
            "null",
            r#"{"vm":"a"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hello_of_another_version_is_refused_with_advice() {
        assert!(Hello::ours().check().is_ok());
        let old = Hello { version: 0, ..Hello::ours() };
        assert!(old.check().unwrap_err().contains("restart vmd"));
        assert!(Hello { protocol: "http".into(), version: VERSION }.check().is_err());
    }
}
