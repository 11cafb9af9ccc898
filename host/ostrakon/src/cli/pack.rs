//! `ostrakon pack`: writes a guest and its settings as a ConfigMap's manifest.

use std::path::{Path, PathBuf};

use ostrakon_settings::settings::Settings;
use ostrakon_toolchain::{Interface, build::write_atomically, component};

use super::inspect::{bounded, read};
use super::manifest::{Error, Manifest};
use super::{Exit, Failure, say, say_aside};

/// The zstd level: packing is rare, and every byte of a ConfigMap counts.
const ZSTD_LEVEL: i32 = 19;

/// Write the manifest of the ConfigMap that delivers a guest and its settings.
///
/// The same input gives the same bytes, so the manifest can be kept under source control. The
/// guest's format and the runtime's settings are checked first; the guest itself checks its
/// settings when it is swapped in.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ostrakon pack --name kv --guest kv.wasm --settings ostrakon.toml --from-literal sharding=jump
  ostrakon pack --name kv --guest kv.wasm --zstd | kubectl apply --server-side -f -")]
pub(super) struct Arguments {
    /// The ConfigMap's name.
    #[arg(long, env = "OSTRAKON_NAME", value_name = "NAME")]
    name: String,
    /// The ConfigMap's namespace [default: none, so kubectl chooses]
    #[arg(long, env = "OSTRAKON_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The guest's component, as `ostrakon build` wrote it.
    #[arg(long, env = "OSTRAKON_GUEST", value_name = "FILE")]
    guest: PathBuf,
    /// The runtime's settings, for the key ostrakon.toml.
    #[arg(long, env = "OSTRAKON_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A setting of the guest, from a file; its key is the file's name, or the given one.
    #[arg(long, env = "OSTRAKON_FROM_FILE", value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// A setting of the guest.
    #[arg(long, env = "OSTRAKON_FROM_LITERAL", value_name = "KEY=VALUE", value_parser = literal)]
    from_literal: Vec<(String, String)>,
    /// Compress the guest, for the key guest.wasm.zst.
    #[arg(long, env = "OSTRAKON_ZSTD")]
    zstd: bool,
    /// Where to write the manifest [default: standard output]
    #[arg(short, long, env = "OSTRAKON_OUTPUT", value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The part after the last `/`.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn literal(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write it as KEY=VALUE, such as sharding=jump")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let manifest = self.manifest()?;
        let json = format!("{:#}\n", manifest.json());
        if manifest.needs_server_side() {
            say_aside(
                "hint: too large for kubectl's annotation: use `kubectl apply --server-side`",
            );
        }
        match &self.output {
            None => say(&json),
            Some(path) => write_atomically(path, json.as_bytes()).map_err(|source| {
                let path = path.clone();
                Failure::new(Exit::Io, Error::Write { path, source })
            }),
        }
    }

    fn manifest(&self) -> Result<Manifest, Failure> {
        let usage = Failure::with::<Error>;
        let mut manifest =
            Manifest::new(&self.name, self.namespace.as_deref()).map_err(usage(Exit::Usage))?;
        let (key, guest) = self.packed_guest()?;
        manifest.add(key, guest).map_err(usage(Exit::Usage))?;
        if let Some(path) = &self.settings {
            let content = read(path)?;
            let text = str::from_utf8(&content).map_err(Failure::with(Exit::Usage))?;
            Settings::parse(text).map_err(Failure::with(Exit::Usage))?;
            manifest
                .add("ostrakon.toml", content)
                .map_err(usage(Exit::Usage))?;
        }
        for argument in &self.from_file {
            let (key, path) = argument
                .split_once('=')
                .unwrap_or_else(|| (file_name(argument), argument));
            let path = Path::new(path);
            manifest
                .add_setting(key, read(path)?)
                .map_err(usage(Exit::Usage))?;
        }
        for (key, value) in &self.from_literal {
            let value = value.clone().into_bytes();
            manifest
                .add_setting(key, value)
                .map_err(usage(Exit::Usage))?;
        }
        manifest.check_size().map_err(usage(Exit::Usage))?;
        Ok(manifest)
    }

    /// The guest's key and content, checked to be a guest.
    fn packed_guest(&self) -> Result<(&'static str, Vec<u8>), Failure> {
        let bytes = read(&self.guest)?;
        let examined = bounded(&bytes)?;
        let interface = Interface::read(&bytes).map_err(Failure::with(Exit::Usage))?;
        let missing = interface.missing_exports();
        if !missing.is_empty() {
            let error = component::Error::NotAGuest(missing.join(", "));
            return Err(Failure::new(Exit::Usage, error));
        }
        examined.map_err(Failure::with(Exit::Usage))?;
        if !self.zstd {
            return Ok(("guest.wasm", bytes));
        }
        let packed =
            zstd::encode_all(&bytes[..], ZSTD_LEVEL).map_err(Failure::with(Exit::Internal))?;
        Ok(("guest.wasm.zst", packed))
    }
}
