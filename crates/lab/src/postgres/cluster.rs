//! The data directory: made once, and served with our settings.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::account::Account;
use super::home::{OpenHome, make_private};
use super::programs::Programs;
use super::{LaunchError, Listen, SUPERUSER};

/// Settings of each private server. Durability is PostgreSQL's default; we set it explicitly, so that no
/// edit of `postgresql.conf` can disable it.
const SETTINGS: [(&str, &str); 9] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    // Small: the demo shares a laptop with other programs.
    ("shared_buffers", "64MB"),
    // Enough for three workers, an API, a simulator and a few psql sessions.
    ("max_connections", "100"),
    // Rows live for seconds here; with the default of a minute dead rows would accumulate.
    ("autovacuum_naptime", "10s"),
    ("unix_socket_permissions", "0700"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
];

/// The major version of the data, if there is data.
pub(super) fn data_major(data: &Path) -> Result<Option<String>, LaunchError> {
    let path = data.join("PG_VERSION");
    if !path.try_exists().map_err(LaunchError::io(format!("inspect `{}`", path.display())))? {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(LaunchError::io(format!("read `{}`", path.display())))?;
    Ok(Some(text.trim().to_owned()))
}

/// Makes the data directory. It appears only when `initdb` has succeeded.
pub(super) fn create(home: &OpenHome, account: &Account, programs: &Programs) -> Result<(), LaunchError> {
    let (data, draft) = (home.data(), home.path().join("data.new"));
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(LaunchError::io(format!("remove `{}`", draft.display())))?;
    }
    fs::create_dir(&draft).map_err(LaunchError::io(format!("make `{}`", draft.display())))?;
    make_private(&draft)?;
    account.take(&draft)?;
    let mut initdb = account.command(&programs.initdb());
    // Without passwords: the socket's directory controls access.
    initdb.args(["--data-checksums", "--encoding=UTF8", "--locale=C", "--auth=trust", "--no-instructions"]);
    initdb.arg(format!("--username={SUPERUSER}")).arg("--pgdata").arg(&draft);
    run(&mut initdb)?;
    let task = format!("rename `{}` to `{}`", draft.display(), data.display());
    fs::rename(&draft, &data).map_err(LaunchError::io(task))
}

/// Writes the access rules outside the data directory, so that each start can set its own.
pub(super) fn write_hba(home: &OpenHome, account: &Account, listen: Listen) -> Result<(), LaunchError> {
    let path = home.hba();
    let mut text = String::from("local all all trust\nlocal replication all trust\n");
    match listen {
        Listen::Socket => {}
        Listen::SocketAndLoopback | Listen::SocketAndPort(_) => {
            text.push_str("host all all 127.0.0.1/32 trust\n");
        }
    }
    fs::write(&path, text).map_err(LaunchError::io(format!("write `{}`", path.display())))?;
    account.take(&path)
}

/// The server's command line.
pub(super) fn settings(
    home: &OpenHome,
    account: &Account,
    programs: &Programs,
    extra: &[(String, String)],
) -> Vec<String> {
    let mut all: Vec<(&str, String)> =
        SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    all.push(("hba_file", home.hba().to_string_lossy().into_owned()));
    if can_compress_with_lz4(home, account, programs) {
        all.push(("wal_compression", "lz4".to_owned()));
    }
    all.extend(extra.iter().map(|(name, value)| (name.as_str(), value.clone())));
    all.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// Asks the program, because builds without lz4 refuse to start with this setting.
fn can_compress_with_lz4(home: &OpenHome, account: &Account, programs: &Programs) -> bool {
    let mut ask = account.command(&programs.postgres());
    ask.args(["-C", "wal_compression", "-c", "wal_compression=lz4", "-D"]).arg(home.data());
    ask.output().is_ok_and(|answer| answer.status.success())
}

fn run(command: &mut Command) -> Result<(), LaunchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().map_err(LaunchError::io(format!("run `{program}`")))?;
    if status.success() {
        return Ok(());
    }
    let output = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).join("\n");
    Err(LaunchError::Failed { program, status: status.to_string(), output: output.trim().to_owned() })
}
