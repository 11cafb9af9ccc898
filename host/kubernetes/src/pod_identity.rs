//! This Pod's identity in its cluster, and the address of its API server.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use ostrakon_base::regular;

/// The largest file with a namespace's name, in bytes.
const MAX_NAMESPACE: usize = 4 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    pub(super) server: Uri,
    /// The mounted ServiceAccount's directory, with `token` and `ca.crt`, which change.
    pub(super) account: PathBuf,
    pub(super) namespace: String,
    pub(super) stateful_set: String,
    pub(super) pod: String,
    /// Distinguishes this Pod from earlier ones of its name, if it is known.
    pub(super) pod_uid: Option<String>,
}

/// The settings and variables that tell a Pod its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `KUBERNETES_SERVICE_HOST`, which every Pod has.
    pub host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`, which every Pod has.
    pub port: Option<String>,
    /// The directory at which the ServiceAccount is mounted.
    pub account: PathBuf,
    pub pod: String,
    /// The Pod's uid, if it is given.
    pub pod_uid: Option<String>,
    /// The Pod's namespace, if it is not the ServiceAccount's.
    pub namespace: Option<String>,
    /// The Pod's StatefulSet, if it cannot be derived from the Pod's name.
    pub stateful_set: Option<String>,
}

/// Why a process has no usable Pod identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The API server's address is not set.
    #[error(
        "this process is in no Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
    )]
    NoServer,
    #[error("{0:?}, from KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, is no address")]
    Address(String),
    #[error(
        "{} cannot be read ({why}): give the Pod a ServiceAccount with automountServiceAccountToken: true, or give its directory with --service-account", path.display()
    )]
    NoAccount { path: PathBuf, why: String },
    /// The Pod's name does not contain its StatefulSet's name.
    #[error(
        "{0:?} is not the name of a StatefulSet's Pod, such as `kv-0`: give --statefulset, or set POD_NAME"
    )]
    NoStatefulSet(String),
}

impl PodIdentity {
    /// Determines the Pod's identity. Reads its namespace from the ServiceAccount.
    ///
    /// # Errors
    /// When the process is not in a Pod, or lacks what the API server requires.
    pub fn find(given: Given) -> Result<Self, NoIdentity> {
        let (Some(host), Some(port)) = (given.host, given.port) else {
            return Err(NoIdentity::NoServer);
        };
        let server = address(&host, &port)?;
        for name in ["token", "ca.crt"] {
            let path = given.account.join(name);
            regular::open(&path).map_err(|error| no_account(path, &error))?;
        }
        let namespace = given.namespace.map_or_else(
            || {
                let path = given.account.join("namespace");
                let namespace = regular::read(&path, MAX_NAMESPACE);
                let namespace = namespace.map_err(|error| no_account(path, &error))?;
                Ok(String::from_utf8_lossy(&namespace).trim().to_owned())
            },
            Ok,
        )?;
        let stateful_set = given.stateful_set.or_else(|| set_of(&given.pod));
        Ok(Self {
            server,
            namespace,
            stateful_set: stateful_set
                .ok_or_else(|| NoIdentity::NoStatefulSet(given.pod.clone()))?,
            account: given.account,
            pod: given.pod,
            pod_uid: given.pod_uid,
        })
    }

    pub(super) fn token(&self) -> PathBuf {
        self.account.join("token")
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.account.join("ca.crt")
    }
}

fn no_account(path: PathBuf, error: &io::Error) -> NoIdentity {
    let why = error.to_string();
    NoIdentity::NoAccount { path, why }
}

fn address(host: &str, port: &str) -> Result<Uri, NoIdentity> {
    let url = match host.parse() {
        Ok(IpAddr::V6(host)) => format!("https://[{host}]:{port}"),
        _ => format!("https://{host}:{port}"),
    };
    let uri = url.parse::<Uri>();
    let uri = uri.ok().filter(|uri| uri.port_u16().is_some());
    uri.ok_or(NoIdentity::Address(url))
}

/// The part of a Pod's name before the ordinal.
fn set_of(pod: &str) -> Option<String> {
    let (set, ordinal) = pod.rsplit_once('-')?;
    let is_ordinal = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    (is_ordinal && !set.is_empty()).then(|| set.to_owned())
}

/// The directory at which a ServiceAccount is mounted in a Pod.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use ostrakon_test_support::files::{fifo, in_time};

    use super::*;

    fn given(account: &Path) -> Given {
        let some = |text: &str| Some(text.to_owned());
        Given {
            host: some("10.96.0.1"),
            port: some("443"),
            account: account.to_owned(),
            pod: "my-kv-17".to_owned(),
            ..Given::default()
        }
    }

    fn account() -> tempfile::TempDir {
        let account = tempfile::tempdir().unwrap();
        for (name, content) in [("token", "t"), ("ca.crt", "c"), ("namespace", "shop\n")] {
            fs::write(account.path().join(name), content).unwrap();
        }
        account
    }

    #[test]
    fn a_pod_knows_where_it_is_by_what_each_pod_has() {
        let account = account();
        let given = given(account.path());
        let identity = PodIdentity::find(given.clone()).unwrap();
        assert_eq!(identity.server, "https://10.96.0.1:443");
        assert_eq!(
            (identity.namespace.as_str(), identity.stateful_set.as_str()),
            ("shop", "my-kv")
        );
        let identity = PodIdentity::find(Given {
            host: Some("2001:db8::1".to_owned()),
            namespace: Some("other".to_owned()),
            stateful_set: Some("kv".to_owned()),
            pod: "anything".to_owned(),
            ..given
        })
        .unwrap();
        assert_eq!(identity.server, "https://[2001:db8::1]:443");
        assert_eq!(
            (identity.namespace.as_str(), identity.stateful_set.as_str()),
            ("other", "kv")
        );
    }

    #[test]
    fn what_is_no_file_is_said_and_not_waited_for() {
        for name in ["namespace", "ca.crt", "token"] {
            let account = account();
            let path = account.path().join(name);
            fs::remove_file(&path).unwrap();
            fifo(&path);
            let given = given(account.path());
            let error = in_time(move || PodIdentity::find(given))
                .unwrap_err()
                .to_string();
            assert!(error.contains(name) && error.contains("FIFO"), "{error}");
        }
    }

    /// The layout in which the kubelet mounts it: names are links that go through another link.
    #[test]
    fn an_account_is_found_behind_links() {
        let account = tempfile::tempdir().unwrap();
        let version = account.path().join("..2026_11_28");
        fs::create_dir(&version).unwrap();
        symlink("..2026_11_28", account.path().join("..data")).unwrap();
        for (name, content) in [("token", "t"), ("ca.crt", "c"), ("namespace", "shop\n")] {
            fs::write(version.join(name), content).unwrap();
            symlink(format!("..data/{name}"), account.path().join(name)).unwrap();
        }
        let identity = PodIdentity::find(given(account.path())).unwrap();
        assert_eq!(identity.namespace, "shop");
    }

    #[test]
    fn what_is_missing_is_said() {
        let account = account();
        let given = given(account.path());
        let check = |given: Given, says: &str| {
            let error = PodIdentity::find(given).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        check(
            Given {
                host: None,
                ..given.clone()
            },
            "is in no Pod",
        );
        check(
            Given {
                port: Some("x".to_owned()),
                ..given.clone()
            },
            "is no address",
        );
        for pod in ["kv", "kv-", "-3", "kv-x", "kv-6f9-abcde"] {
            check(
                Given {
                    pod: pod.to_owned(),
                    ..given.clone()
                },
                "give --statefulset",
            );
        }
        for name in ["namespace", "ca.crt", "token"] {
            fs::remove_file(account.path().join(name)).unwrap();
            check(given.clone(), name);
        }
        check(given, "automountServiceAccountToken");
    }
}
