//! The machine as files and variables show it to us.
//!
//! A file that cannot be read counts as missing: the report says less then, and does not fail.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Longer than any file that is read here.
const MAX_LENGTH: u64 = 1 << 20;

/// Where systemd as process 1 writes what has made its container.
const MANAGED: &str = "run/systemd/container";

/// CAP_NET_BIND_SERVICE and CAP_SYS_PTRACE of capabilities(7).
pub const NET_BIND_SERVICE: u32 = 10;
/// See [`NET_BIND_SERVICE`].
pub const SYS_PTRACE: u32 = 19;

/// The root of the files, and the environment.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Machine {
    /// Files are looked for below `root`, variables in `environment`.
    pub fn new(root: impl Into<PathBuf>, environment: Vec<(OsString, OsString)>) -> Machine {
        Machine { root: root.into(), environment }
    }

    /// The content of a file; `path` begins without a slash.
    pub fn read(&self, path: &str) -> Option<String> {
        let mut text = Vec::new();
        File::open(self.root.join(path)).ok()?.take(MAX_LENGTH).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Where a link leads.
    pub fn link(&self, path: &str) -> Option<String> {
        Some(std::fs::read_link(self.root.join(path)).ok()?.to_string_lossy().into_owned())
    }

    /// The number that is the whole content of a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// All variables.
    pub fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// A variable that is not empty.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// A field of proc_pid_status(5), of ourselves.
    pub fn status(&self, field: &str) -> Option<String> {
        let text = self.read("proc/self/status")?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(value.trim().into())
    }

    /// Whether we have a capability.
    pub fn can(&self, capability: u32) -> Option<bool> {
        let mask = u64::from_str_radix(&self.status("CapEff")?, 16).ok()?;
        Some(mask & 1 << capability != 0)
    }

    /// What shows that we are in a container.
    pub fn container(&self) -> Option<String> {
        let files = [".dockerenv", "run/.containerenv"];
        if let Some(file) = files.into_iter().find(|file| self.has(file)) {
            return Some(format!("/{file}"));
        }
        let variables = ["container", "KUBERNETES_SERVICE_HOST"];
        if let Some(name) = variables.into_iter().find(|name| self.variable(name).is_some()) {
            return Some(format!("${name}"));
        }
        if let Some(manager) = self.read(MANAGED) {
            return Some(format!("/{MANAGED}: {}", manager.trim().escape_debug()));
        }
        let groups = self.read("proc/self/cgroup")?;
        let marks = ["docker", "kubepods", "containerd", "libpod", "lxc"];
        let mark = marks.into_iter().find(|mark| groups.contains(mark))?;
        Some(format!("{mark} in its control group"))
    }

    /// Whether systemd-nspawn has made our container. Its variable is for process 1 alone, which
    /// writes the file.
    pub fn in_nspawn(&self) -> bool {
        const NAME: &str = "systemd-nspawn";
        self.variable("container").is_some_and(|name| name == NAME)
            || self.read(MANAGED).is_some_and(|name| name.trim() == NAME)
    }

    /// Whether a system call filter is in force for us.
    pub fn is_filtered(&self) -> bool {
        self.status("Seccomp").as_deref() == Some("2")
    }

    /// A file of our control group and of those above it, ours first. In a container the path from
    /// the kernel may exist on the host only; then the root of the hierarchy is our group.
    /// `controller` is its name in version 1.
    pub fn cgroup(&self, controller: &str, file: &str) -> Vec<String> {
        let text = self.read("proc/self/cgroup").unwrap_or_default();
        let mut found = Vec::new();
        for (base, path) in text.lines().filter_map(|line| group(line, controller)) {
            let mut path = path.trim_matches('/');
            loop {
                let directory = if path.is_empty() { base.clone() } else { format!("{base}/{path}") };
                found.extend(self.read(&format!("{directory}/{file}")));
                if path.is_empty() {
                    break;
                }
                path = path.rsplit_once('/').map_or("", |(above, _)| above);
            }
        }
        found
    }
}

/// A line of cgroups(7), `/proc/PID/cgroup`: where that hierarchy is mounted by
/// custom, and our path in it.
fn group<'a>(line: &'a str, controller: &str) -> Option<(String, &'a str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    match controllers {
        "" => Some(("sys/fs/cgroup".into(), path)),
        _ if controllers.split(',').any(|name| name == controller) => {
            Some((format!("sys/fs/cgroup/{controller}"), path))
        }
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// A machine of these files and variables. The directory has to outlive it.
    pub fn machine(
        files: &[(&str, &str)],
        variables: &[(&'static str, &'static str)],
    ) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let variables = variables.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let machine = Machine::new(root.path(), variables);
        (root, machine)
    }

    #[test]
    fn a_missing_file_gives_nothing() {
        let nowhere = Machine::new(Path::new("/nonexistent"), Vec::new());
        assert_eq!(nowhere.read("proc/self/status"), None);
        assert_eq!(nowhere.can(0), None);
        assert!(nowhere.cgroup("pids", "pids.max").is_empty() && !nowhere.has("proc"));
    }

    #[test]
    fn capabilities_are_bits_of_the_status() {
        let (_root, machine) =
            machine(&[("proc/self/status", "Name:\tx\nCapEff:\t0000000000000400\nNoNewPrivs:\t1\n")], &[]);
        assert_eq!(machine.can(NET_BIND_SERVICE), Some(true));
        assert_eq!(machine.can(SYS_PTRACE), Some(false));
        assert_eq!(machine.status("NoNewPrivs").as_deref(), Some("1"));
        assert_eq!(machine.status("NoNew"), None, "the whole name counts");
    }

    #[test]
    fn a_limit_is_found_in_every_group_above() {
        let text = "2:pids:/docker/a\n0::/docker/a/b\n1:name=systemd:/x\n";
        let (_root, machine) = machine(
            &[
                ("proc/self/cgroup", text),
                ("sys/fs/cgroup/pids/pids.max", "7\n"),
                ("sys/fs/cgroup/docker/a/pids.max", "8\n"),
                ("sys/fs/cgroup/pids/x/pids.max", "9\n"),
            ],
            &[],
        );
        assert_eq!(machine.cgroup("pids", "pids.max"), ["7\n", "8\n"]);
        assert_eq!(group("nonsense", "pids"), None);
        assert_eq!(group("4:cpu,pids:/a:b", "pids"), Some(("sys/fs/cgroup/pids".into(), "/a:b")));
    }
}
