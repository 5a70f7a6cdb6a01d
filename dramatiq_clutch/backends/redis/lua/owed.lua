-- Look at what the state owes, and give the caller what is its own or whose lease has lapsed.
-- USES take, life, expiry
-- returns {'owing' | 'clear' | 'unknown', note, duty...}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown', ''} end
if run.stage ~= stage then return {'moved'} end
look()
clean_up()
return answer('clear', 'owing')
