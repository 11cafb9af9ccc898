-- wrk's requests, made beforehand, with random keys; and its figures on one line.
-- Arguments: load, save or put; the number of keys.

local forms = {
  load = "GET /load/%s HTTP/1.1\r\nhost: bench\r\n\r\n",
  save = "GET /save/%s/" .. string.rep("w", 64) .. " HTTP/1.1\r\nhost: bench\r\n\r\n",
  put = "PUT /kv/%s HTTP/1.1\r\nhost: bench\r\ncontent-length: 64\r\n\r\n" .. string.rep("w", 64),
}
local requests = {}

function init(args)
  math.randomseed(os.time())
  for key = 1, tonumber(args[2]) do
    requests[key] = string.format(forms[args[1]], string.format("key-%016d", key - 1))
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print("figures", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed)
end
