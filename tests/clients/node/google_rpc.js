'use strict';
// Decodes the details of a failed call from grpc-status-details-bin.
//
// Contains only the google.rpc messages that the gateway uses.

const { status: { UNAVAILABLE } } = require('@grpc/grpc-js');
const protobuf = require('protobufjs');

const { root } = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message RequestInfo { string request_id = 1; string serving_data = 2; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message BadRequest {
    message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1;
  }
  message QuotaFailure {
    message Violation { string subject = 1; string description = 2; }
    repeated Violation violations = 1;
  }
`, { keepCase: true });

/** Returns the status of a failed call, and its typed details by name. */
function details(error) {
  const [packed] = error.metadata.get('grpc-status-details-bin');
  if (packed === undefined) throw new Error(`no details: ${error.message}`);
  const status = root.lookupType('google.rpc.Status').decode(packed);
  const found = { status };
  for (const { type_url: url, value } of status.details) {
    const name = url.slice(url.lastIndexOf('/') + 1);
    found[name.slice(name.lastIndexOf('.') + 1)] = root.lookupType(name).decode(value);
  }
  return found;
}

/** Returns the gateway's error info, or undefined if the status is not from the gateway. */
function reason(error) {
  if (error.metadata.get('grpc-status-details-bin').length === 0) return undefined;
  const { ErrorInfo } = details(error);
  return ErrorInfo?.domain === 'ott-gateway' ? ErrorInfo : undefined;
}

/**
 * Returns whether a failed LoginWithOtt may be sent again with the same token. UNAVAILABLE from the client library,
 * for example because the connection was lost, does not guarantee that.
 */
function mayLogInAgain(error) {
  return error.code === UNAVAILABLE && reason(error) !== undefined;
}

module.exports = { details, mayLogInAgain, reason };
