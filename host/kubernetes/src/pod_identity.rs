//! Where this Pod is in its cluster, and how its API server is reached.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use ostrakon_base::regular;

/// The most bytes of a file that holds a namespace's name.
const MAX_NAMESPACE: usize = 4 << 10;

/// Where this Pod is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// The API server.
    pub(super) server: Uri,
    /// What the ServiceAccount is mounted as: `token` and `ca.crt`, which change.
    pub(super) account: PathBuf,
    pub(super) namespace: String,
    pub(super) stateful_set: String,
    pub(super) pod: String,
    /// Tells this Pod from former ones of its name, where it is known.
    pub(super) pod_uid: Option<String>,
}

/// What a Pod is given to know where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `KUBERNETES_SERVICE_HOST`, which each Pod has.
    pub host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`, likewise.
    pub port: Option<String>,
    /// Where the ServiceAccount is mounted.
    pub account: PathBuf,
    /// The Pod's name.
    pub pod: String,
    /// The Pod's uid, where it is told.
    pub pod_uid: Option<String>,
    /// Its namespace, where that is not the ServiceAccount's.
    pub namespace: Option<String>,
    /// Its StatefulSet, where the Pod's name does not say it.
    pub stateful_set: Option<String>,
}

/// Why a process is in no Pod whose API server it could ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// No API server is named.
    #[error(
        "this process is in no Pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
    )]
    NoServer,
    /// What is named is none.
    #[error("{0:?}, of KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, is no address")]
    Address(String),
    /// There is nothing to show to it.
    #[error(
        "{} cannot be read ({why}): give the Pod a ServiceAccount with automountServiceAccountToken: true, or name its directory by --service-account", path.display()
    )]
    NoAccount {
        /// What was looked for.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The Pod's name does not say of which StatefulSet it is.
    #[error(
        "{0:?} is not the name of a StatefulSet's Pod, such as `kv-0`: give --statefulset, or set POD_NAME"
    )]
    NoStatefulSet(String),
}

impl PodIdentity {
    /// Finds out where a Pod is. Reads its namespace from the ServiceAccount.
    ///
    /// # Errors
    /// When it is in no Pod, or lacks what an API server demands.
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

/// What is before the ordinal in a Pod's name.
fn set_of(pod: &str) -> Option<String> {
    let (set, ordinal) = pod.rsplit_once('-')?;
    let is_ordinal = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    (is_ordinal && !set.is_empty()).then(|| set.to_owned())
}

/// Where a ServiceAccount is mounted in a Pod.
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
        let place = PodIdentity::find(given.clone()).unwrap();
        assert_eq!(place.server, "https://10.96.0.1:443");
        assert_eq!(
            (place.namespace.as_str(), place.stateful_set.as_str()),
            ("shop", "my-kv")
        );
        let place = PodIdentity::find(Given {
            host: Some("2001:db8::1".to_owned()),
            namespace: Some("other".to_owned()),
            stateful_set: Some("kv".to_owned()),
            pod: "anything".to_owned(),
            ..given
        })
        .unwrap();
        assert_eq!(place.server, "https://[2001:db8::1]:443");
        assert_eq!(
            (place.namespace.as_str(), place.stateful_set.as_str()),
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

    /// As the kubelet mounts it: names are links through another one.
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
        let place = PodIdentity::find(given(account.path())).unwrap();
        assert_eq!(place.namespace, "shop");
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
