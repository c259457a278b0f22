//! Certificates of servers: each refusal names the file, the host and the remedy.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use warmproof_lab::postgres::discovery::Discovery;
use warmproof_lab::postgres::{Home, Listen, Options, PrivatePostgres};

use warmproof_testkit::process::Program;

/// A server with a certificate, and the authority that signed it.
struct Server {
    postgres: PrivatePostgres,
    certificates: Certificates,
}

struct Certificates(TempDir);

impl Certificates {
    /// An authority, and certificates that it signed: a good one, one for another host, and an old one.
    fn make() -> Self {
        let place =
            tempfile::Builder::new().prefix("warmproof-tls-").tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("others may pass");
        let all = Self(place);
        for authority in ["ca", "stranger"] {
            all.openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ));
        }
        for (name, extensions) in [
            ("good", Some("subjectAltName=IP:127.0.0.1,DNS:localhost")),
            ("other", Some("subjectAltName=DNS:db.example")),
            ("old", None),
        ] {
            all.openssl(&format!(
                "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout {name}.key -out {name}.csr"
            ));
            let extensions = extensions.map_or(String::new(), |text| {
                std::fs::write(all.path(&format!("{name}.ext")), text).expect("its extensions");
                format!("-extfile {name}.ext")
            });
            all.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 {extensions} -out {name}.pem"
            ));
            all.give_to_server(&format!("{name}.key"));
        }
        all
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output =
            Command::new("openssl").args(arguments.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.expect("openssl; scripts/bootstrap --test installs it");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A server reads its key only if it is its own.
    fn give_to_server(&self, name: &str) {
        let path = self.path(name);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("private");
        if geteuid().is_root() {
            let user = User::from_name("postgres").ok().flatten().expect("the account `postgres`");
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
        }
    }
}

impl Server {
    fn with(certificate: Option<&str>) -> Self {
        let certificates = Certificates::make();
        let mut options = Options::new(Home::Temporary, Discovery::from_environment());
        options.listen = Listen::SocketAndLoopback;
        let file =
            |name: &str, kind: &str| certificates.path(&format!("{name}.{kind}")).display().to_string();
        options.settings = match certificate {
            Some(name) => vec![
                ("ssl".to_owned(), "on".to_owned()),
                ("ssl_cert_file".to_owned(), file(name, "pem")),
                ("ssl_key_file".to_owned(), file(name, "key")),
            ],
            None => Vec::new(),
        };
        let postgres = PrivatePostgres::start(&options).expect("a private PostgreSQL");
        Self { postgres, certificates }
    }

    /// Whether `doctor` connected with these parameters, and its output.
    async fn doctor(&self, parameters: &str, variables: &[(&str, &Path)]) -> (bool, String) {
        let address = self.postgres.tcp_addr().expect("loopback");
        let url = format!("postgres://postgres@{address}/postgres?{parameters}");
        let mut program = Program::of(&["doctor"], [("WARMPROOF_DATABASE_URL".to_owned(), url)].into())
            .env("WARMPROOF_DATABASE_POOLER", false);
        for (name, value) in variables {
            program = program.env(name, value.display());
        }
        let mut process = program.start();
        process.ended().await;
        let reported = process.stdout().join("\n");
        // The schema is missing, so `doctor` fails; it has connected if it reports the encryption.
        (reported.contains("encryption"), reported)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.certificates.path(name)
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_file_or_by_the_operating_systems_store() {
    let server = Server::with(Some("good"));
    let (authority, stranger) = (server.file("ca.pem"), server.file("stranger.pem"));
    let by_file = format!("sslmode=verify-full&sslrootcert={}", authority.display());
    let (through, reported) = server.doctor(&by_file, &[]).await;
    assert!(
        through && reported.contains("sslmode=verify-full: encrypted; the server's authority and name"),
        "{reported}"
    );
    let (through, reported) = server.doctor("sslrootcert=system", &[("SSL_CERT_FILE", &authority)]).await;
    assert!(through && reported.contains("sslmode=verify-full: encrypted"), "{reported}");

    let (through, reported) = server.doctor("sslmode=verify-full", &[]).await;
    let remedy = "the operating system's store does not hold its authority; name its file as `sslrootcert=`";
    assert!(
        !through && reported.contains("an authority that is not trusted here") && reported.contains(remedy),
        "{reported}"
    );
    let wrong = format!("sslmode=verify-ca&sslrootcert={}", stranger.display());
    let (through, reported) = server.doctor(&wrong, &[]).await;
    assert!(
        !through && reported.contains(&format!("nor `sslrootcert={}` holds", stranger.display())),
        "{reported}"
    );
    let (through, reported) = server.doctor("sslmode=verify-ca&sslrootcert=/nowhere.pem", &[]).await;
    assert!(!through && reported.contains("/nowhere.pem"), "{reported}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_by_its_name_alone() {
    let server = Server::with(Some("other"));
    let root = server.file("ca.pem").display().to_string();
    let (through, reported) = server.doctor(&format!("sslmode=verify-full&sslrootcert={root}"), &[]).await;
    assert!(
        !through && reported.contains("names another host") && reported.contains("verify-ca"),
        "{reported}"
    );
    let (through, reported) = server.doctor(&format!("sslmode=verify-ca&sslrootcert={root}"), &[]).await;
    assert!(through && reported.contains("its name is not"), "{reported}");
}

#[tokio::test]
async fn a_certificate_of_an_old_version_is_reported_with_its_version() {
    let server = Server::with(Some("old"));
    let (through, reported) = server.doctor("sslmode=require", &[]).await;
    assert!(
        !through && reported.contains("X.509 version 1") && reported.contains("version 3 certificate"),
        "{reported}"
    );
    let (through, reported) = server.doctor("sslmode=disable", &[]).await;
    assert!(through && reported.contains("sslmode=disable: not encrypted"), "{reported}");
}

#[tokio::test]
async fn a_server_without_tls_is_reported_as_that_and_not_as_untrusted() {
    let server = Server::with(None);
    let (through, reported) = server.doctor("sslmode=require", &[]).await;
    assert!(
        !through && reported.contains("does not support TLS") && reported.contains("turn `ssl` on"),
        "{reported}"
    );
    let (through, reported) = server.doctor("sslmode=prefer", &[]).await;
    assert!(through && reported.contains("sslmode=prefer: not encrypted"), "{reported}");
}
