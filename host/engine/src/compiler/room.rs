//! Determines how much memory the control groups of this process have left.
//!
//! If a container's memory runs out, Kubernetes makes the kernel end all of its processes, not
//! only the one that took the most. So a child must not take more than what is left.

use std::fs;
use std::path::Path;

/// A container's memory limit, and the memory left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) limit: u64,
    pub(super) left: u64,
}

/// The tightest limit; none if there is no limit.
pub(super) fn room() -> Option<Room> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    within(Path::new("/sys/fs/cgroup"), &groups)
}

fn within(root: &Path, groups: &str) -> Option<Room> {
    let mut narrowest = None::<Room>;
    for line in groups.lines() {
        // A number, controllers, and the group's path, which may begin above the mounted
        // directory.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mounted, names) = match controllers {
            "" => (root.to_owned(), &UNIFIED),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), &FIRST)
            }
            _ => continue,
        };
        let group = mounted.join(path.trim_start_matches('/'));
        let groups = group.ancestors();
        for group in groups.take_while(|group| group.starts_with(&mounted)) {
            let Some(room) = names.read(group) else {
                continue;
            };
            if narrowest.is_none_or(|narrowest| room.left < narrowest.left) {
                narrowest = Some(room);
            }
        }
    }
    narrowest
}

/// The names of a group's files, in either version of control groups.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// The used memory that the kernel reclaims before it ends any process.
    files: [&'static str; 2],
}

const UNIFIED: Names = Names {
    limit: "memory.max",
    used: "memory.current",
    files: ["inactive_file", "active_file"],
};

const FIRST: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: ["total_inactive_file", "total_active_file"],
};

impl Names {
    fn read(&self, group: &Path) -> Option<Room> {
        let number = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse().ok()
        };
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        // Practically no limit: more than any machine has.
        if limit >= 1 << 50 {
            return None;
        }
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let files = stat.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            let is_of_files = self.files.contains(&name);
            is_of_files.then(|| bytes.trim().parse::<u64>().ok())?
        });
        let used = used.saturating_sub(files.sum());
        Some(Room {
            limit,
            left: limit.saturating_sub(used),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Creates a directory of control groups: files by path, with their text.
    fn groups(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("it is in the directory")).expect("made");
            fs::write(path, text).expect("a file");
        }
        let root = directory.path().to_owned();
        (directory, root)
    }

    #[test]
    fn what_the_kernel_can_take_back_is_left_and_the_narrowest_group_counts() {
        let (_directory, root) = groups(&[
            ("memory.max", "max\n"),
            ("memory.current", "9999\n"),
            ("pod/memory.max", "1000\n"),
            ("pod/memory.current", "900\n"),
            (
                "pod/memory.stat",
                "anon 500\ninactive_file 300\nactive_file 50\n",
            ),
            ("pod/it/memory.max", "800\n"),
            ("pod/it/memory.current", "100\n"),
        ]);
        let pod = Room {
            limit: 1000,
            left: 450,
        };
        assert_eq!(within(&root, "0::/pod/it\n"), Some(pod));
        assert_eq!(within(&root, "0::/\n"), None);
        assert_eq!(within(&root, "1:cpu:/pod\n"), None);
    }

    #[test]
    fn the_path_may_be_that_of_the_node_and_the_groups_those_of_the_container() {
        let (_directory, root) = groups(&[
            ("memory.max", "1000\n"),
            ("memory.current", "400\n"),
            ("memory/memory.limit_in_bytes", "700\n"),
            ("memory/memory.usage_in_bytes", "600\n"),
            (
                "memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 100\n",
            ),
        ]);
        let room = |limit, left| Some(Room { limit, left });
        assert_eq!(within(&root, "0::/kubepods/pod1/it\n"), room(1000, 600));
        assert_eq!(within(&root, "5:memory:/docker/it\n"), room(700, 200));
    }
}
