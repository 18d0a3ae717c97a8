// The Node clients, driven by lines of JSON on stdin, answered by one line each on stdout; see ../drive.py.
// node drive.js googleapis|gax-grpc|gax-rest
'use strict';
const path = require('path');
const readline = require('readline');
const CALLS = require('../calls.json');

class GoogleApis {
  constructor({endpoint, tls, token}) {
    const {google} = require('googleapis');
    const options = {version: 'v1', rootUrl: `http${tls ? 's' : ''}://${endpoint}/`, timeout: 20000, retry: false};
    if (token) {
      options.auth = new google.auth.OAuth2();
      options.auth.setCredentials({access_token: token});
    }
    this.api = google.vmmigration(options);
  }

  async call(method, request) {
    const {path: where, body, lift} = CALLS[method];
    let parameters = {...request};
    if (body === '*') {
      const {name, ...rest} = parameters;
      parameters = {name, requestBody: rest};
    } else if (body) {
      parameters.requestBody = parameters[body];
      delete parameters[body];
    }
    if (lift) parameters[lift] = parameters.requestBody[lift];
    const parts = where.split('.');
    const verb = parts.pop();
    const resource = parts.reduce((at, part) => at[part], this.api);
    return (await resource[verb](parameters)).data;
  }

  async finish(method, request) {
    let operation = await this.call(method, request);
    for (let look = 0; look < 600 && !operation.done; look++) {
      await new Promise(resolve => setTimeout(resolve, 50));
      operation = await this.call('GetOperation', {name: operation.name});
    }
    return operation.response;
  }

  async pages(method, request) {
    const found = [];
    let pageToken;
    do {
      const page = await this.call(method, pageToken ? {...request, pageToken} : request);
      found.push(page[CALLS[method].items] || []);
      pageToken = page.nextPageToken;
    } while (pageToken);
    return found;
  }

  failure(error) {
    const body = error.response && error.response.data && error.response.data.error;
    if (!body) throw error;
    return fromBody(body, Number(error.status || error.code));
  }
}

function fromBody(body, http) {
  const info = body.details.find(each => each['@type'].endsWith('.ErrorInfo'));
  const details = body.details.map(each => each['@type'].split('.').pop());
  return {code: body.status, http, reason: info.reason, details, message: body.message};
}

// As the generated clients use gax.
class Gax {
  constructor({endpoint, tls, token}, rest) {
    const gax = require('google-gax');
    const protos = require('google-proto-files');
    this.gax = gax;
    const [host, port] = endpoint.split(':');
    const root = new gax.protobuf.Root();
    root.resolvePath = (_, target) => protos.getProtoPath('..', target);
    root.loadSync(
      ['google/cloud/vmmigration/v1/vmmigration.proto', 'google/longrunning/operations.proto',
       'google/cloud/location/locations.proto', 'google/rpc/error_details.proto']);
    root.resolveAll();
    this.root = root;
    const options = {servicePath: host, port: Number(port), scopes: []};
    if (rest) {
      const {OAuth2Client, PassThroughClient} = gax.googleAuthLibrary;
      Object.assign(options, {fallback: true, protocol: tls ? 'https' : 'http', numericEnums: true});
      options.auth = options.authClient = token ? new OAuth2Client() : new PassThroughClient();
      if (token) options.auth.setCredentials({access_token: token});
    } else {
      options.sslCreds = tls ? gax.grpc.credentials.createSsl() : gax.grpc.credentials.createInsecure();
    }
    // gRPC refuses to carry call credentials over a plaintext channel; as metadata it carries anything.
    this.settings = token && !rest ? {otherArgs: {headers: {authorization: `Bearer ${token}`}}} : {};
    const module = rest ? gax.fallback : gax;
    const client = new module.GrpcClient(options);
    const loaded = client.loadProtoJSON(root.toJSON());
    const lroOptions = {auth: client.auth, grpc: client.grpc};
    if (rest) {
      lroOptions.protoJson = loaded;
      const operations = '/v1/{name=projects/*/locations/*/operations/*}';
      lroOptions.httpRules = [
        {selector: 'google.longrunning.Operations.GetOperation', get: operations},
        {selector: 'google.longrunning.Operations.DeleteOperation', delete: operations},
        {selector: 'google.longrunning.Operations.CancelOperation', post: operations + ':cancel', body: '*'},
        {selector: 'google.longrunning.Operations.ListOperations',
         get: '/v1/{name=projects/*/locations/*}/operations'},
      ];
    }
    this.operations = module.lro(lroOptions).operationsClient(options);
    this.locations = new module.LocationsClient(client, options);
    const name = 'google.cloud.vmmigration.v1.VmMigration';
    const service = rest ? loaded.lookupService(name) : loaded.google.cloud.vmmigration.v1.VmMigration;
    const methods = Object.fromEntries(Object.keys(CALLS).map(rpc => [rpc, {timeout_millis: 20000}]));
    const config = {interfaces: {[name]: {retry_codes: {}, retry_params: {}, methods}}};
    const settings = client.constructSettings(name, config, {}, {'x-goog-api-client': 'gax/5'});
    this.methods = client.createStub(service, options).then(stub => {
      const made = {};
      for (const [rpc, {items, response}] of Object.entries(CALLS)) {
        const method = rpc[0].toLowerCase() + rpc.slice(1);
        if (!root.lookupService(name).methods[rpc]) continue;
        const bound = (...args) => stub[method](...args);
        let descriptor;
        if (items) descriptor = new module.PageDescriptor('pageToken', 'nextPageToken', items);
        if (response) {
          const decoder = kind => {
            const type = root.lookupType('google.cloud.vmmigration.v1.' + kind);
            return type.decode.bind(type);
          };
          descriptor = new module.LongrunningDescriptor(
            this.operations, decoder(response), decoder('OperationMetadata'));
        }
        made[rpc] = module.createApiCall(Promise.resolve(bound), settings[method], descriptor, rest || undefined);
      }
      return made;
    });
  }

  // What the client sends, from JSON.
  message(type, json) {
    return this.gax.serializer.fromProto3JSON(type, json);
  }

  // JSON of what the client gave.
  json(typeName, answer) {
    const type = this.root.lookupType(typeName);
    return this.gax.serializer.toProto3JSON(type.fromObject(answer));
  }

  async start(method, request, settings) {
    if (/Operations?$/.test(method)) return this.operation(method, request, settings);
    if (/Locations?$/.test(method)) return this.location(method, request);
    const type = this.root.lookupType(`google.cloud.vmmigration.v1.${method}Request`);
    return (await this.methods)[method](this.message(type, request), settings);
  }

  operation(method, request, settings) {
    const name = method[0].toLowerCase() + method.slice(1);
    const type = this.root.lookupType(`google.longrunning.${method}Request`);
    return this.operations[name](this.message(type, request), settings || {});
  }

  async location(method, request) {
    if (method === 'GetLocation') return this.locations.getLocation(request);
    const found = [];
    for await (const each of this.locations.listLocationsAsync(request)) found.push(each);
    return [found, null];
  }

  async call(method, request) {
    const [answer] = await this.start(method, request, this.settings);
    if (method === 'GetOperation') return this.json('google.longrunning.Operation', answer);
    if (/Operation$/.test(method)) return {};
    if (method === 'GetLocation') return this.json('google.cloud.location.Location', answer);
    if (CALLS[method].response) return this.json('google.longrunning.Operation', answer.latestResponse);
    return this.json('google.cloud.vmmigration.v1.' + method.replace(/^Get/, ''), answer);
  }

  async finish(method, request) {
    const [operation] = await this.start(method, request, this.settings);
    const [response] = await operation.promise();
    return this.json('google.cloud.vmmigration.v1.' + CALLS[method].response, response);
  }

  async pages(method, request) {
    const kinds = {operations: 'google.longrunning.Operation', locations: 'google.cloud.location.Location',
                   cloneJobs: 'google.cloud.vmmigration.v1.CloneJob',
                   migratingVms: 'google.cloud.vmmigration.v1.MigratingVm'};
    const found = [];
    let next = request;
    while (next) {
      const [items, following] = await this.start(method, next, {...this.settings, autoPaginate: false});
      found.push(items.map(each => this.json(kinds[CALLS[method].items], each)));
      next = following && following.pageToken ? {...request, pageToken: following.pageToken} : null;
    }
    return found;
  }

  failure(error) {
    if (typeof error.code !== 'number' && !/^\d+$/.test(error.code)) throw error;
    const code = Number(error.code);
    if (code >= 100) { // gax 5 over REST: the body as it came
      let body;
      try {
        body = JSON.parse(error.message);
      } catch {
        throw error;
      }
      return fromBody((Array.isArray(body) ? body[0] : body).error, code);
    }
    const details = (error.statusDetails || []).map(
      each => (each.$type && each.$type.name) || each['@type'] || each.constructor.name);
    return {code: this.gax.Status[code], http: null, reason: error.reason, details, message: error.message};
  }
}

async function main(kind) {
  const clients = {};
  for await (const line of readline.createInterface({input: process.stdin})) {
    const command = JSON.parse(line);
    const where = JSON.stringify(command.at);
    if (!clients[where]) {
      clients[where] = kind === 'googleapis' ? new GoogleApis(command.at) : new Gax(command.at, kind === 'gax-rest');
    }
    const client = clients[where];
    let answer;
    try {
      answer = {result: await client[command.do](command.method, command.request)};
    } catch (error) {
      answer = {error: client.failure(error)};
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
  process.exit(0);
}

main(...process.argv.slice(2)).catch(error => {
  console.error(error);
  process.exit(1);
});
