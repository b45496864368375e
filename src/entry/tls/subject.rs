//! The name of a certificate's subject, for people: what a log calls a client.
//!
//! Certificates are DER (X.690), of which only what leads to the names is read (RFC 5280 §4.1). The
//! certificate has been verified before, and its names are written as any text of a peer is.

use crate::connection::record::printable;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const BMP_STRING: u8 = 0x1e;

/// The version of a certificate, which may be left out.
const VERSION: u8 = 0xa0;
/// The extensions of a certificate.
const EXTENSIONS: u8 = 0xa3;

/// `commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// An address of mail, a DNS name, and a URI among the alternative names (RFC 5280 §4.2.1.6).
const TEXT_NAMES: [u8; 3] = [0x81, 0x82, 0x86];

/// What a log calls the subject: its common name, else the first of its alternative names that is
/// text, else that it has none.
pub fn name_of(certificate: &[u8]) -> Box<str> {
    let name = subject_and_extensions(certificate).and_then(|(subject, extensions)| {
        common_name(subject).or_else(|| extensions.and_then(alternative_name))
    });
    name.unwrap_or_else(|| "(no name)".into())
}

/// Takes the next element: its tag, its content, and what comes behind it.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 3 {
            return None;
        }
        (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// The content of the next element, if it has this tag, and what comes behind it.
fn expect(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    element(input).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// All elements of a content.
fn elements(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(input)?;
        input = rest;
        Some((tag, content))
    })
}

fn subject_and_extensions(certificate: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (fields, _) = expect(SEQUENCE, certificate)?;
    let mut fields = elements(fields).filter(|(tag, _)| *tag != VERSION);
    // Before it come serial number, algorithm, issuer and validity.
    let (_, subject) = fields.nth(4)?;
    let extensions = fields.find(|(tag, _)| *tag == EXTENSIONS);
    Some((subject, extensions.map(|(_, extensions)| extensions)))
}

fn common_name(subject: &[u8]) -> Option<Box<str>> {
    let sets = elements(subject).filter(|(tag, _)| *tag == SET);
    let mut attributes = sets.flat_map(|(_, set)| elements(set));
    attributes.find_map(|(_, attribute)| {
        let (id, rest) = expect(OBJECT_ID, attribute)?;
        let (tag, text, _) = element(rest)?;
        (id == COMMON_NAME).then(|| match tag {
            BMP_STRING => printable(utf8_of_bmp(text).as_bytes()),
            _ => printable(text),
        })
    })
}

fn utf8_of_bmp(text: &[u8]) -> String {
    let (units, _) = text.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
    String::from_utf16_lossy(&units)
}

fn alternative_name(extensions: &[u8]) -> Option<Box<str>> {
    let (extensions, _) = expect(SEQUENCE, extensions)?;
    let names = elements(extensions).find_map(|(_, extension)| {
        let (id, rest) = expect(OBJECT_ID, extension)?;
        // Whether it is critical may stand between.
        let (_, value) = elements(rest).last()?;
        (id == SUBJECT_ALT_NAME).then_some(value)
    })?;
    let (names, _) = expect(SEQUENCE, names)?;
    let (_, name) = elements(names).find(|(tag, _)| TEXT_NAMES.contains(tag))?;
    Some(printable(name))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use proptest::{collection::vec, prelude::*};
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(subject: DistinguishedName, alternative: &[&str]) -> Vec<u8> {
        let names: Vec<_> = alternative.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = subject;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject(values: &[(DnType, DnValue)]) -> DistinguishedName {
        let mut subject = DistinguishedName::new();
        for (kind, value) in values {
            subject.push(kind.clone(), value.clone());
        }
        subject
    }

    #[test]
    fn client_is_called_by_its_common_name_else_by_another() {
        let organization = (DnType::OrganizationName, DnValue::Utf8String("Example".to_owned()));
        let named = |value| subject(&[organization.clone(), (DnType::CommonName, value)]);
        for (der, name) in [
            (
                certificate(named(DnValue::Utf8String("Žaneta".to_owned())), &["a.example"]),
                "Žaneta",
            ),
            (
                certificate(named(DnValue::BmpString("Anna".try_into().unwrap())), &["a.example"]),
                "Anna",
            ),
            (certificate(named(DnValue::Utf8String("a\nb".to_owned())), &[]), r"a\u{a}b"),
            (
                certificate(subject(from_ref(&organization)), &["10.0.0.1", "a.example"]),
                "a.example",
            ),
            (certificate(subject(&[]), &["10.0.0.1"]), "(no name)"),
        ] {
            assert_eq!(&*name_of(&der), name);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_name_or_none(bytes in vec(any::<u8>(), 0..200)) {
            name_of(&bytes);
        }

        #[test]
        fn a_changed_certificate_has_a_name_or_none(at in 0..200_usize, byte in any::<u8>()) {
            let name = DnValue::Utf8String("name".to_owned());
            let mut der = certificate(subject(&[(DnType::CommonName, name)]), &["a.example"]);
            let len = der.len();
            der[at % len] = byte;
            name_of(&der);
        }
    }
}
