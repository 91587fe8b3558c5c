-- Sends whole HTTP requests from a file, in turn; prints what became of them as one line of JSON.
-- Where a request has @@@@@@@@ stands a number that no other request has.
local requests, rest, turn, count = {}, {}, 0, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  while true do
    local length = file:read("*l")
    if not length then break end
    local whole = file:read(tonumber(length))
    local place = whole:find("@@@@@@@@", 1, true)
    requests[#requests + 1] = place and whole:sub(1, place - 1) or whole
    rest[#requests] = place and whole:sub(place + 8) or false
  end
  file:close()
  if arguments[2] then turn = tonumber(arguments[2]) end
end

function request()
  turn = turn % #requests + 1
  if not rest[turn] then return requests[turn] end
  count = count + 1
  return requests[turn] .. string.format("%08x", count) .. rest[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answers":%d,"seconds":%.6f,"refused":%d,"broken":%d,"late":%d,"p50":%.6f,"p90":%.6f,"p99":%.6f,"longest":%.6f}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write,
    errors.timeout, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3))
end
