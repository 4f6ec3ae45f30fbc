//! Espalier's wire protocol: protobufs, generated code, conversion to the vocabulary.
