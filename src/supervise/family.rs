//! All descendants of this process: finds, names and signals them. On Linux also those that left the command's process group or
//! session (daemons); elsewhere the command's process group. It does not know why they must end.

#[cfg(target_os = "linux")]
pub(super) use linux::Descendants;
#[cfg(not(target_os = "linux"))]
pub(super) use others::Descendants;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::{fs, io};

    use rustix::io::Errno;
    use rustix::process::{self, Pid, PidfdFlags, Signal};
    use store::read::{self, MAX_TEXT_BYTES};

    pub(crate) struct Descendants;

    impl Descendants {
        /// Makes this process the parent of orphans among its descendants.
        pub(crate) fn adopt_orphans() -> io::Result<()> {
            Ok(process::set_child_subreaper(Some(process::getpid()))?)
        }

        pub(crate) fn of(_main: Pid) -> Descendants {
            Descendants
        }

        /// Whether no descendant is left, once this process has no child: orphans become its children.
        pub(crate) fn is_gone(&self) -> bool {
            true
        }

        /// The programs and process numbers of all descendants that have not ended.
        pub(crate) fn members(&self) -> Vec<(String, i32)> {
            let name = |id: i32| {
                let name = read::bytes(format!("/proc/{id}/comm").as_ref(), MAX_TEXT_BYTES).ok()?;
                Some(String::from_utf8_lossy(&name).trim_end().to_owned())
            };
            let at_work = descendants().into_iter().filter(|(id, _)| !has_ended(*id));
            at_work.filter_map(|(id, _)| Some((name(id)?, id))).collect()
        }

        /// Sends a signal to all present descendants.
        pub(crate) fn signal(&self, signal: Signal) {
            // Parents first: a shell whose child is killed would report that in the log.
            for (descendant, parent) in descendants() {
                send(descendant, parent, signal);
            }
        }
    }

    /// The descendants of this process and the parent of each.
    fn descendants() -> Vec<(i32, i32)> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some((id, parent)) = id.and_then(|id| Some((id, parent_of(id)?))) {
                children.entry(parent).or_default().push(id);
            }
        }
        let (mut found, mut open) = (Vec::new(), vec![process::getpid().as_raw_nonzero().get()]);
        while let Some(parent) = open.pop() {
            let of_parent = children.remove(&parent).unwrap_or_default();
            found.extend(of_parent.iter().map(|child| (*child, parent)));
            open.extend(of_parent);
        }
        found
    }

    fn parent_of(id: i32) -> Option<i32> {
        field(id, 1)?.parse().ok()
    }

    /// Whether it is a zombie.
    fn has_ended(id: i32) -> bool {
        field(id, 0).is_none_or(|state| state == "Z" || state == "X")
    }

    /// A field of `/proc/ID/stat`, counted from the third. The second, the program's name, may hold anything, so `)` is searched
    /// from the end.
    fn field(id: i32, index: usize) -> Option<String> {
        let stat = read::bytes(format!("/proc/{id}/stat").as_ref(), MAX_TEXT_BYTES).ok()?;
        let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
        rest.split_ascii_whitespace().nth(index).map(str::to_owned)
    }

    /// The process number may belong to another process since it was listed. The handle keeps one process while its parent is
    /// checked again.
    fn send(descendant: i32, parent: i32, signal: Signal) {
        let Some(id) = Pid::from_raw(descendant) else { return };
        let handle = process::pidfd_open(id, PidfdFlags::empty());
        // An orphan is a child of this process by now.
        let own = process::getpid().as_raw_nonzero().get();
        if !parent_of(descendant).is_some_and(|now| now == parent || now == own) {
            return;
        }
        // A process that has ended meanwhile needs no signal.
        let _ = match handle {
            Ok(handle) => process::pidfd_send_signal(handle, signal),
            Err(Errno::NOSYS | Errno::PERM) => process::kill_process(id, signal),
            Err(error) => Err(error),
        };
    }
}

#[cfg(not(target_os = "linux"))]
mod others {
    use std::io::{self, Read};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, Signal};

    pub struct Descendants(Pid);

    impl Descendants {
        pub fn adopt_orphans() -> io::Result<()> {
            Ok(())
        }

        pub fn of(main: Pid) -> Descendants {
            Descendants(main)
        }

        /// Whether no process of the group is left.
        pub fn is_gone(&self) -> bool {
            rustix::process::test_kill_process_group(self.0).is_err()
        }

        /// The programs and process numbers of the group.
        pub fn members(&self) -> Vec<(String, i32)> {
            let mut list = Command::new("ps");
            list.args(["-A", "-o", "pid=,pgid=,comm="]).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut text = String::new();
            if let Ok(mut child) = list.spawn() {
                let _ = child.stdout.take().map(|mut output| output.read_to_string(&mut text));
                // The thread that reaps processes may have done this already.
                let _ = child.wait();
            }
            let member = |line: &str| {
                let (id, rest) = line.trim_start().split_once(' ')?;
                let (group, program) = rest.trim_start().split_once(' ')?;
                let name = Path::new(program.trim()).file_name()?.to_string_lossy().into_owned();
                let own = group.parse() == Ok(self.0.as_raw_nonzero().get());
                Some((name, id.parse().ok()?)).filter(|_| own)
            };
            text.lines().filter_map(member).collect()
        }

        /// Sends a signal to the command's process group.
        pub fn signal(&self, signal: Signal) {
            let _ = rustix::process::kill_process_group(self.0, signal);
        }
    }
}
