//! The `ostrakon` command.

use clap::Parser;

#[derive(Parser)]
enum Command {
    Serve {
        #[arg(long, env = "OSTRAKON_CONFIG_DIR")]
        config_dir: std::path::PathBuf,
        #[arg(long, env = "OSTRAKON_DATA_DIR")]
        data_dir: std::path::PathBuf,
        #[arg(long, env = "OSTRAKON_SECRETS_DIR")]
        secrets_dir: Option<std::path::PathBuf>,
        #[arg(long, env = "OSTRAKON_LISTEN", default_value = "0.0.0.0:8080")]
        listen: std::net::SocketAddr,
        #[arg(long, env = "OSTRAKON_ADMIN", default_value = "0.0.0.0:9090")]
        admin: std::net::SocketAddr,
        #[arg(long, env = "OSTRAKON_ORDINAL", default_value = "0")]
        ordinal: u32,
        #[arg(long, env = "OSTRAKON_LOG_FORMAT", default_value = "auto")]
        log_format: ostrakon::telemetry::Format,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Serve { config_dir, data_dir, secrets_dir, listen, admin, ordinal, log_format } =
        Command::parse();
    let filter = ostrakon::telemetry::init(log_format, "info")?;
    let options = ostrakon::app::Options {
        config_dir,
        data_dir,
        secrets_dir,
        listen,
        admin,
        ordinal,
        store_cache_bytes: 64 << 20,
        log_filter: "info".to_owned(),
    };
    Ok(ostrakon::app::serve(&options, Some(filter))?)
}
