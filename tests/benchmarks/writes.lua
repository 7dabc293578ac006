-- For wrk: POST /packages with new names, or PATCH with the tag that the answer before gave.
--   wrk --script writes.lua URL -- post PREFIX
--   wrk --script writes.lua URL -- patch FILE     with lines of `NAME "TAG"`, more than there are connections
-- A package that was sent waits until it is answered: no two requests change one at the same time.
local kind, number, free, sent = nil, 0, {}, {}

function init(args)
  kind = args[1]
  if kind == "post" then
    sent = args[2]
  else
    for line in io.lines(args[2]) do
      local name, tag = line:match("^(%S+) (%S+)$")
      free[#free + 1] = { name = name, tag = tag }
    end
    response = changed
  end
end

function request()
  number = number + 1
  if kind == "post" then
    local body = '{"name":"zz-%s-%d","organization":"bench","summary":"made by the benchmark"}'
    return wrk.format("POST", "/packages", nil, body:format(sent, number))
  end
  local one = table.remove(free, 1)
  wrk.headers["if-match"] = one.tag
  sent[one.name] = one
  return wrk.format("PATCH", "/packages/" .. one.name, nil, ('{"summary":"changed by %d"}'):format(number))
end

function changed(status, headers, body)
  local name = body:match('"name":"([^"]+)"')
  local one = name and sent[name]
  if status == 200 and one then
    one.tag = headers["ETag"] or headers["etag"]
    sent[name] = nil
    free[#free + 1] = one
  end
end
