-- Once a succeeded run owes nothing, only its status and result stay.
-- returns {'tidied' | 'unknown'}, or {'moved'}: it is at another stage now
if not run.state then return {'unknown'} end
if run.stage ~= stage then return {'moved'} end
clean_up()
return {'tidied'}
