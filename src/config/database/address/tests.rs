use secrecy::ExposeSecret;

use super::*;

fn parsed(text: &str) -> Address {
    Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match Address::parse(text) {
        Ok(address) => panic!("{text} was read as {:?}", address.hosts),
        Err(error) => error.to_string(),
    }
}

fn tcp(host: &str, port: u16) -> Host {
    Host::Tcp { host: host.to_owned(), port }
}

fn socket(directory: &str) -> Host {
    Host::Socket { directory: directory.to_owned(), port: 5432 }
}

#[test]
fn the_plain_form_is_read() {
    let address = parsed("postgres://ada:secret@db.example:5433/app");
    assert_eq!(address.hosts, [tcp("db.example", 5433)]);
    assert_eq!((address.user.as_str(), address.database.as_str()), ("ada", "app"));
    assert_eq!(address.password.unwrap().expose_secret(), "secret");
    assert_eq!((address.target, address.tls.mode), (Target::Any, TlsMode::Prefer));
}

#[test]
fn what_is_left_out_has_a_default_that_no_environment_changes() {
    let address = parsed("postgresql://ada@db");
    assert_eq!(address.hosts, [tcp("db", 5432)]);
    assert_eq!((address.database.as_str(), address.password.is_none()), ("ada", true));
}

#[test]
fn several_hosts_ask_for_one_that_takes_writes() {
    let address = parsed("postgres://ada@one:5433,two,[::1]:5434/app");
    assert_eq!(address.hosts, [tcp("one", 5433), tcp("two", 5432), tcp("::1", 5434)]);
    assert_eq!(address.target, Target::ReadWrite);
    assert_eq!(parsed("postgres://ada@one,two/app?target_session_attrs=any").target, Target::Any);
    assert_eq!(parsed("postgres://ada@one/app?target_session_attrs=primary").target, Target::ReadWrite);
    assert!(refusal("postgres://ada@one,two/app?target_session_attrs=standby").contains("read-write"));
}

#[test]
fn hosts_and_ports_may_be_parameters() {
    let hosts = |text: &str| parsed(text).hosts;
    assert_eq!(hosts("postgres:///app?user=ada&host=one,two&port=1,2"), [tcp("one", 1), tcp("two", 2)]);
    assert_eq!(hosts("postgres:///app?user=ada&host=one,two&port=7"), [tcp("one", 7), tcp("two", 7)]);
    assert!(refusal("postgres:///app?user=ada&host=one,two,three&port=1,2").contains("number of ports"));
}

#[test]
fn a_sockets_directory_works_with_and_without_a_user_before_it() {
    let run = socket("/var/run/postgresql");
    for text in [
        "postgres://ada@/app?host=/var/run/postgresql",
        "postgres:///app?user=ada&host=/var/run/postgresql",
        "postgres://ada:secret@%2Fvar%2Frun%2Fpostgresql/app",
        "postgres://ada@localhost/app?host=/var/run/postgresql",
    ] {
        assert_eq!(parsed(text).hosts, std::slice::from_ref(&run), "{text}");
    }
}

#[test]
fn ipv6_needs_its_brackets() {
    assert_eq!(parsed("postgres://ada@[::1]/app").hosts, [tcp("::1", 5432)]);
    assert_eq!(parsed("postgres://ada@[::1]:7/app").hosts[0].to_string(), "[::1]:7");
    assert!(refusal("postgres://ada@::1/app").contains("brackets"));
    assert!(refusal("postgres://ada@[::1/app").contains("bracket"));
}

#[test]
fn a_password_that_must_be_encoded_is_refused_without_being_repeated() {
    for (text, character) in [
        ("postgres://ada:hunter#2@db/app", "#"),
        ("postgres://ada:hunter/2@db/app", "/"),
        ("postgres://ada:hunter?2@db/app", "?"),
        ("postgres://ada:hunter%zz@db/app", "%"),
        ("postgres://ada:h@hunter/2@db/app", "/"),
    ] {
        let text = refusal(text);
        assert!(text.contains(&format!("`{character}`")) && !text.contains("hunter"), "{text}");
    }
    let encoded = parsed("postgres://a%40b:h%23%2F%3F%40%25@db/app");
    assert_eq!((encoded.user.as_str(), encoded.password.unwrap().expose_secret()), ("a@b", "h#/?@%"));
}

#[test]
fn a_password_and_a_parameter_may_hold_an_at_sign() {
    assert_eq!(parsed("postgres://ada:p@ss@db/app").password.unwrap().expose_secret(), "p@ss");
    assert_eq!(parsed("postgres://db/app?user=a@b").user, "a@b");
}

#[test]
fn tls_is_read_as_libpq_reads_it() {
    let tls = |query: &str| parsed(&format!("postgres://ada@db/app?{query}")).tls;
    assert_eq!(tls("sslmode=verify-full&sslrootcert=/ca.pem").root.as_deref(), Some("/ca.pem"));
    assert_eq!(tls("sslrootcert=system"), Tls { mode: TlsMode::VerifyFull, root: None, client: None });
    assert_eq!(tls("sslcert=a&sslkey=b").client, Some(("a".to_owned(), "b".to_owned())));
    let refused = |query: &str| refusal(&format!("postgres://ada@db/app?{query}"));
    assert!(refused("sslmode=require&sslrootcert=system").contains("verify-full"));
    assert!(refused("sslcert=a").contains("sslkey"));
    assert!(refused("sslmode=sometimes").contains("sslmode"));
}

#[test]
fn an_unsupported_parameter_is_named_and_its_value_is_not() {
    for (pair, name) in [
        ("sslpassword=hunter2", "sslpassword"),
        ("channel_binding=require", "channel_binding"),
        ("options=-c%20a%3Dhunter2", "options"),
        ("foo=hunter2", "foo"),
        ("connect_timeout=hunter2", "connect_timeout"),
    ] {
        let text = refusal(&format!("postgres://ada@db/app?{pair}"));
        assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
    }
    for secret in ["hunter2%20secret", "password=pa&hunter2", "sslkey=-----BEGIN%20KEY-----hunter2"] {
        assert!(!refusal(&format!("postgres://ada@db/app?{secret}")).contains("hunter2"), "{secret}");
    }
    parsed("postgres://ada@db/app?channel_binding=prefer&gssencmode=disable&keepalives=1");
}

#[test]
fn nothing_is_guessed() {
    assert!(refusal("postgres://db/app").contains("user"));
    assert!(refusal("postgres://ada@/app").contains("host"));
    assert!(refusal("postgres://ada@db:port/app").contains("port"));
    assert!(refusal("postgres://ada@db:0/app").contains("port"));
    assert!(refusal("mysql://ada@db/app").contains("postgres://"));
}

#[test]
fn a_connection_that_leaves_the_machine_is_remote() {
    for near in ["localhost", "127.0.0.1", "[::1]"] {
        assert!(!parsed(&format!("postgres://ada@{near}/app")).hosts[0].is_remote(), "{near}");
    }
    assert!(parsed("postgres://ada@db.example/app").hosts[0].is_remote());
}
