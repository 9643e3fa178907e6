// k6 against a worker: what a client may rely on, as checks that must all hold. `PART` chooses the scenario.
import http from 'k6/http';
import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';

const URL = __ENV.URL;
const joules = new Counter('joules');
const PARTS = {
  refusals: { vus: 5, iterations: 50 },
  limited: { vus: 5, iterations: 40 },
  streams: { vus: 16, iterations: 96 },
  embeddings: { vus: 50, iterations: 1000 },
  leavers: { vus: 24, iterations: 72 },
  drained: { vus: 8, duration: '12s' },
};
export const options = {
  ...PARTS[__ENV.PART],
  thresholds: { checks: ['rate==1'] },
};

function post(path, body, params = {}) {
  return http.post(`${URL}${path}`, JSON.stringify(body), {
    headers: { 'Content-Type': 'application/json' },
    responseCallback: http.expectedStatuses({ min: 200, max: 599 }),
    ...params,
  });
}

const error = (answer) => (answer.body ? answer.json('error') || {} : {});
let sentAway = false; // this user's last request of `drained`
const chat = (more) => ({ model: 'tiny', messages: [{ role: 'user', content: 'hello' }], ...more });

const RUN = {
  refusals() {
    const long = post('/v1/chat/completions', chat({ messages: [{ role: 'user', content: 'long '.repeat(3000) }] }));
    check(long, {
      'too long is 400': (r) => r.status === 400,
      'and says so': (r) => error(r).code === 'context_length_exceeded' && error(r).param === 'messages',
    });
    check(post('/v1/chat/completions', chat({ model: 'gpt-5' })), {
      'a wrong model is 404': (r) => r.status === 404 && error(r).code === 'model_not_found',
    });
    check(post('/v1/chat/completions', chat({ n: 2 })), {
      'what is not supported is 400': (r) => r.status === 400 && error(r).param === 'n',
    });
    check(post('/v1/embeddings', { model: 'tiny', input: 'x' }), {
      'another task is 400': (r) => r.status === 400 && error(r).code === 'wrong_task',
    });
    check(post('/v1/completions', { model: 'tiny', prompt: 'Power', max_tokens: 4 }), {
      'a good one among them is 200': (r) => r.status === 200 && r.json('usage.completion_tokens') <= 4,
    });
  },

  limited() {
    check(post('/v1/completions', { model: 'tiny', prompt: 'Power', max_tokens: 1 }), {
      'in, or 429 with a time to come again': (r) =>
        r.status === 200 ||
        (r.status === 429 && error(r).code === 'admission_rate' && Number(r.headers['Retry-After']) >= 1),
    });
  },

  streams() {
    const asked = { max_tokens: 24, ignore_eos: true, stream: true, stream_options: { include_usage: true } };
    const answer = post('/v1/chat/completions', chat(asked));
    const events = (answer.body || '')
      .split('\n\n')
      .filter((line) => line)
      .map((line) => line.replace('data: ', ''));
    const last = events.length > 1 ? JSON.parse(events[events.length - 2]) : {};
    check(answer, {
      'a stream is 200': (r) => r.status === 200,
      'of events': (r) => (r.headers['Content-Type'] || '').startsWith('text/event-stream'),
      'that end with [DONE]': () => events[events.length - 1] === '[DONE]',
      'and with usage': () => last.usage && last.usage.completion_tokens === 24,
      'and joules': () => last.usage && last.usage.energy.method === 'nvml',
    });
    if (last.usage) joules.add(last.usage.energy.joules);
  },

  embeddings() {
    const text = `text number ${__ITER} of ${__VU}`.repeat(1 + (__ITER % 8));
    check(post('/v1/embeddings', { model: 'minilm', input: [text, text] }), {
      'an embedding is 200': (r) => r.status === 200,
      'of length 1': (r) => {
        const vector = r.json('data.0.embedding');
        return vector.length === 384 && Math.abs(vector.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-3;
      },
      'the same for the same text': (r) => {
        const [one, two] = [r.json('data.0.embedding'), r.json('data.1.embedding')];
        return one.every((x, i) => Math.abs(x - two[i]) < 1e-4);
      },
      'with joules': (r) => Number(r.headers['X-Energy-Joules']) > 0,
    });
  },

  leavers() {
    const long = { model: 'tiny', prompt: 'Power', max_tokens: 900, ignore_eos: true };
    check(post('/v1/completions', long, { timeout: '400ms' }), {
      'the client left before the answer': (r) => r.status === 0,
    });
  },

  drained() {
    const answer = post('/v1/completions', { model: 'tiny', prompt: 'Power', max_tokens: 16, ignore_eos: true });
    check(answer, {
      'a whole answer, or 503 and elsewhere': (r) =>
        (r.status === 200 && r.json('usage.completion_tokens') === 16) ||
        (r.status === 503 && error(r).code === 'not_ready' && Number(r.headers['Retry-After']) >= 1),
      // Go hides `Connection: close` from its users; what it does to the next request cannot be hidden.
      'and after a 503 a connection of its own': (r) => !sentAway || r.timings.connecting > 0,
    });
    sentAway = answer.status === 503;
    sleep(0.02);
  },
};

export default function () {
  RUN[__ENV.PART]();
}
