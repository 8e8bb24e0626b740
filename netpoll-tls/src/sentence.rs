//! What failed, as a sentence for a person; rustls's error is the cause.

use netpoll_core::FilterError;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// The error of a client's connection.
pub(crate) fn of_client(error: &Error) -> FilterError {
    let sentence = match error {
        Error::InvalidCertificate(fault) => certificate("the server's certificate", fault),
        Error::AlertReceived(alert) => refused("the server", *alert),
        error => either("the server", error),
    };
    FilterError::caused_by(sentence, error.clone())
}

/// The error of a server's connection.
pub(crate) fn of_server(error: &Error) -> FilterError {
    let sentence = match error {
        Error::NoCertificatesPresented => {
            "the client presented no certificate, and one is required".into()
        }
        Error::NoApplicationProtocol => {
            "the client offers by ALPN none of the protocols that this server speaks".into()
        }
        Error::InvalidCertificate(fault) => certificate("the client's certificate", fault),
        Error::AlertReceived(alert) => refused("the client", *alert),
        error => either("the client", error),
    };
    FilterError::caused_by(sentence, error.clone())
}

fn certificate(whose: &str, fault: &CertificateError) -> String {
    use CertificateError as Fault;
    match fault {
        Fault::NotValidForNameContext { expected, presented } => {
            format!("{whose} is for {}, and not for {}", names(presented), expected.to_str())
        }
        Fault::NotValidForName => format!("{whose} is for another name"),
        Fault::Expired | Fault::ExpiredContext { .. } => format!("{whose} has expired"),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            format!("{whose} is not valid yet: is the clock of this machine right?")
        }
        Fault::UnknownIssuer => {
            format!("{whose} comes from an issuer that is not trusted here; add its root")
        }
        Fault::Revoked => format!("{whose} was revoked"),
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
            format!("{whose} may not be used for this")
        }
        Fault::BadSignature => format!("{whose} has a wrong signature"),
        Fault::ApplicationVerificationFailure => format!("{whose} was refused by the verifier"),
        other => format!("{whose} is not accepted: {other}"),
    }
}

/// The names of a certificate, without the kind that rustls writes around each: `DnsName("a")`.
fn names(presented: &[String]) -> String {
    let name = |text: &String| match text.split_once('(') {
        Some((_, name)) => name.trim_end_matches(')').trim_matches('"').to_owned(),
        None => text.clone(),
    };
    if presented.is_empty() {
        return "no name".into();
    }
    presented.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The peer sent an alert, so it knows the reason better.
fn refused(peer: &str, alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let why = match alert {
        Alert::UnknownCA => "does not trust the issuer of our certificate",
        Alert::CertificateExpired => "finds that our certificate has expired",
        Alert::CertificateRevoked => "finds our certificate revoked",
        Alert::CertificateRequired => "requires a certificate, and we presented none",
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "does not accept our certificate"
        }
        Alert::AccessDenied => "denies access to the owner of our certificate",
        Alert::UnrecognisedName => "has no certificate for the name that was asked for",
        Alert::NoApplicationProtocol => "speaks none of the protocols that were offered by ALPN",
        Alert::ProtocolVersion => "speaks no version of TLS that this side speaks",
        Alert::HandshakeFailure => "has no version, cipher suite or certificate in common with us",
        Alert::BadRecordMac | Alert::DecryptError => "could not decrypt or verify what it received",
        Alert::UserCanceled => "cancelled the handshake",
        alert => return format!("{peer} ended TLS with the alert {alert:?}"),
    };
    format!("{peer} {why}")
}

fn either(peer: &str, error: &Error) -> String {
    match error {
        Error::PeerIncompatible(lack) => incompatible(peer, lack),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("{peer} sent bytes that are not TLS")
        }
        Error::DecryptError => {
            format!("a record of {peer} could not be decrypted: it was changed on its way")
        }
        Error::PeerSentOversizedRecord | Error::InvalidMessage(_) => {
            format!("{peer} sent a message that is not valid in TLS: {error}")
        }
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => {
            format!("{peer} broke the protocol of TLS: {error}")
        }
        Error::EncryptError => "a record could not be sealed: the keys are used up".into(),
        error => format!("TLS failed: {error}"),
    }
}

fn incompatible(peer: &str, lack: &PeerIncompatible) -> String {
    use PeerIncompatible as Lack;
    match lack {
        Lack::Tls12NotOffered
        | Lack::Tls12NotOfferedOrEnabled
        | Lack::SupportedVersionsExtensionRequired
        | Lack::ServerDoesNotSupportTls12Or13
        | Lack::ServerTlsVersionIsDisabledByOurConfig => {
            format!("{peer} speaks no version of TLS that this side speaks")
        }
        Lack::NoCipherSuitesInCommon | Lack::NoKxGroupsInCommon => {
            format!("{peer} has no cipher suite or key exchange in common with this side")
        }
        Lack::NoSignatureSchemesInCommon | Lack::NoCertificateRequestSignatureSchemesInCommon => {
            format!("{peer} can't verify signatures by the kind of key that this side has")
        }
        lack => format!("{peer} is not compatible with this side: {lack:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn a_wrong_name_is_named_beside_the_right_one() {
        let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example").unwrap().to_owned(),
            presented: vec!["DnsName(\"b.example\")".into()],
        });
        let told = of_client(&error);
        let sentence = "the server's certificate is for b.example, and not for a.example";
        assert_eq!(told.to_string(), sentence);
        assert_eq!(told.source().unwrap().downcast_ref(), Some(&error));
    }

    #[test]
    fn each_side_names_the_other() {
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(of_client(&expired).to_string(), "the server's certificate has expired");
        assert_eq!(of_server(&expired).to_string(), "the client's certificate has expired");
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        let sentence = "the server requires a certificate, and we presented none";
        assert_eq!(of_client(&alert).to_string(), sentence);
    }
}
